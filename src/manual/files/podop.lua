-- passdb and userdb of Dovecot, answered by the same backend as Podop's tables.

local BASE = "http://127.0.0.1:8080/auth/"

-- Dovecot 2.4 renamed the settings of its HTTP client, and refuses names that it does not know. 2.3 ignores those, so
-- its names are tried first.
local function new_client()
  local ok, client = pcall(dovecot.http.client, {
    request_timeout_msecs = 5000,
    request_absolute_timeout_msecs = 10000,
    max_attempts = 2,
  })
  return ok and client or dovecot.http.client {
    request_timeout = "5s",
    request_absolute_timeout = "10s",
    request_max_attempts = 2,
  }
end
local client = new_client()

-- Sends a GET request and returns the response; a status of 9000 or more means that there was none.
local function get(path)
  local response = client:request({ url = BASE .. path, method = "GET" }):submit()
  if response:status() >= 9000 then
    -- The client waits before it connects again, and doubles the time with each failure, up to a minute. No setting
    -- limits this, so that logins would fail for a while after the backend is back. A new client does not wait.
    client = nil
    collectgarbage()
    client = new_client()
  end
  return response
end

-- Reads a JSON string; `at` is the position after its opening quote.
local ESCAPES = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t", ['"'] = '"', ["\\"] = "\\", ["/"] = "/" }
local function json_string(text, at)
  local parts = {}
  while true do
    local plain, stop = text:match('^([^"\\\0-\31]*)()', at)
    local mark, letter = text:sub(stop, stop), text:sub(stop + 1, stop + 1)
    parts[#parts + 1] = plain
    if mark == '"' then
      return table.concat(parts), stop + 1
    elseif mark == "\\" and letter == "u" then
      local code = tonumber(text:match("^%x%x%x%x", stop + 2) or error("bad \\u"), 16)
      local low = tonumber(text:match("^\\u([dD][c-fC-F]%x%x)", stop + 6) or "", 16)
      at = stop + 6
      if code >= 0xD800 and code <= 0xDFFF then -- one half of a character beyond U+FFFF
        if code > 0xDBFF or not low then error("bad surrogate") end
        code, at = 0x10000 + (code - 0xD800) * 0x400 + low - 0xDC00, at + 6
      end
      parts[#parts + 1] = utf8.char(code)
    elseif mark == "\\" and ESCAPES[letter] then
      parts[#parts + 1], at = ESCAPES[letter], stop + 2
    else
      error("bad string")
    end
  end
end

-- Reads an object of strings, numbers, true, false and null; a null leaves its field out.
local function json_object(text)
  local fields = {}
  local at = text:match("^%s*{%s*()") or error("no object")
  local done = text:match("^}%s*()$", at)
  while not done do
    local name, value
    name, at = json_string(text, text:match('^"()', at) or error("no name"))
    at = text:match("^%s*:%s*()", at) or error("no colon")
    if text:sub(at, at) == '"' then
      value, at = json_string(text, at + 1)
    else
      value, at = text:match("^([%w.+-]+)()", at)
      if not value or not (value == "null" or value == "true" or value == "false" or tonumber(value)) then
        error("bad value of " .. name)
      end
    end
    if value ~= "null" then fields[name] = value end
    done = text:match("^%s*}%s*()$", at)
    at = done or text:match("^%s*,%s*()", at) or error("no comma")
  end
  return fields
end

-- Returns the fields of a user, or nil and the reason; the reason is false for an unknown user.
local function lookup(table_name, user)
  -- the HTTP client of 2.4 decodes %2F, so that "../x" would address something else
  if user:find("/", 1, true) or user == "." or user == ".." then return nil, false end
  local escaped = user:gsub("[^%w@._~-]", function(c) return ("%%%02X"):format(c:byte()) end)
  local response = get(table_name .. "/" .. escaped)
  if response:status() == 404 then return nil, false end
  if response:status() ~= 200 then return nil, response:status() .. " " .. response:reason() end
  local ok, fields = pcall(json_object, response:payload())
  if not ok then return nil, "the answer is not a flat JSON object: " .. fields end
  return fields
end

local function answer(request, table_name, kind)
  local fields, reason = lookup(table_name, request.user)
  if fields then return dovecot.auth[kind .. "_RESULT_OK"], fields end
  if not reason then return dovecot.auth[kind .. "_RESULT_USER_UNKNOWN"], "no such user" end
  return dovecot.auth[kind .. "_RESULT_INTERNAL_FAILURE"], reason
end

function auth_passdb_lookup(request) return answer(request, "passdb", "PASSDB") end
function auth_userdb_lookup(request) return answer(request, "userdb", "USERDB") end

-- doveadm user '*', doveadm -A: an object of users, whose fields are ignored
function auth_userdb_iterate()
  local response = get("userdb/")
  if response:status() ~= 200 then error(response:status() .. " " .. response:reason()) end
  local text, users = response:payload(), {}
  local at = text:match("^%s*{%s*()") or error("no object")
  while not text:match("^}", at) do
    local name
    name, at = json_string(text, text:match('^"()', at) or error("no name"))
    users[#users + 1] = name
    at = text:match("^%s*:%s*%b{}%s*,?%s*()", at) or error("no object of fields")
  end
  return users
end

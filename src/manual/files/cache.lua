function auth_passdb_get_cache_key() return "%{user}" end
function auth_userdb_get_cache_key() return "%{user}" end

# aliases.py: aliases from a dictionary
import json, sys

ALIASES = {
    "info@example.org": ["alice@example.org", "bob@example.net"],
    "postmaster@example.org": "alice@example.org",
}

for line in sys.stdin:
    request = json.loads(line)
    answer = {"id": request["id"]}
    if "get" in request:
        answer["value"] = ALIASES.get(request["get"].lower())  # None (null) means "no such key"
    elif "list" in request:
        answer["value"] = ALIASES if request["list"] == "" else {}
    else:
        answer["done"] = False  # the aliases cannot be changed
    print(json.dumps(answer), flush=True)

# mail.py
import json, os, sqlite3
import flask

SQL = {
    "domain": "SELECT name FROM domain WHERE name = ?",
    "mailbox": "SELECT address FROM user WHERE address = ?",
    "alias": "SELECT target FROM alias WHERE address = ? ORDER BY target",
    "passdb": "SELECT json_object('password', password) FROM user WHERE address = ?",
    "userdb": "SELECT json_object('quota_rule', '*:bytes=' || quota) FROM user WHERE address = ?",
}
SECONDS = {"domain": 300, "mailbox": 60, "alias": 60}  # passwords and quotas are never cached
app = flask.Flask(__name__)

@app.get("/<table>/<path:key>")
def look_up(table, key):
    with sqlite3.connect(os.environ.get("DATABASE", "mail.db"), timeout=5) as database:
        values = [row[0] for row in database.execute(SQL[table], (key,))]
    if table in ("passdb", "userdb"): values = [json.loads(value) for value in values]
    response = flask.jsonify(values if table == "alias" else values[0] if values else None)
    response.status_code = 200 if values else 404
    response.headers["Cache-Control"] = f"max-age={SECONDS[table]}" if table in SECONDS else "no-store"
    return response

# mailboxes.py: mailboxes from PostgreSQL; DSN is the database, as in "host=/run/postgresql dbname=mail"
import json, os, sys
import psycopg2

DSN = os.environ.get("DSN", "dbname=mail")
QUERY = "SELECT maildir FROM mailbox WHERE address = lower(%s) AND active"
connection = None

def query(key):
    global connection
    if connection is None or connection.closed:
        connection = psycopg2.connect(DSN, connect_timeout=5)
        connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(QUERY, (key,))
        row = cursor.fetchone()
        return row and row[0]

def look_up(key):
    if "\0" in key:
        return None  # which no text in a database has
    try:
        return query(key)
    except psycopg2.OperationalError:
        connection and connection.close()
        return query(key)  # once more, on a new connection

for line in sys.stdin:
    request = json.loads(line)
    answer = {"id": request["id"]}
    try:
        if "get" in request:
            answer["value"] = look_up(request["get"])
        else:
            answer["error"] = "only single keys are known"
    except psycopg2.Error as error:
        answer["error"] = str(error).strip()
    print(json.dumps(answer), flush=True)

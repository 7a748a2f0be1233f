install -d -m 0755 /run/podop
podop --socket /run/podop/podop.sock --socket-group postfix \
    --name alias --type program --param 'python3 /etc/podop/aliases.py' \
    --name mailbox --type program --param 'python3 /etc/podop/mailboxes.py' --option mailbox:cache=60

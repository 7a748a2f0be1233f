install -d -m 0755 /run/podop
podop --socket /run/podop/podop.sock --socket-group postfix \
    --name relay --type mx --param mx.example.net --option relay:primary=198.51.100.0/24 \
    --name recipients --type file --param /etc/podop/recipients.json \
    --option recipients:case=lower --option recipients:search=address,+

podop --socket /run/podop/podop.sock \
    --name relay --type mx --param mx.example.net \
    --name recipients --type file --param /etc/podop/recipients.json

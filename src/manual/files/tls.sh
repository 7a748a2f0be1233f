podop --socket /run/podop/podop.sock --socket-group postfix \
  --name alias --type url --param https://admin.example.org:8443/alias/§ \
  --option alias:ca=/etc/podop/admin.pem \
  --option alias:cert=/etc/podop/mx1.pem --option alias:key=/etc/podop/mx1.key \
  --option alias:miss=404 --option alias:keepalive=60

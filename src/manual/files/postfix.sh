install -d -m 0755 /run/podop
podop --socket /run/podop/podop.sock --socket-group postfix \
  --name alias     --type url --param http://127.0.0.1:8080/alias/§ \
  --name domain    --type url --param http://127.0.0.1:8080/domain/§ \
  --name mailbox   --type url --param http://127.0.0.1:8080/mailbox/§ \
  --name transport --type url --param http://127.0.0.1:8080/transport/§ \
  --option '*:case=lower'

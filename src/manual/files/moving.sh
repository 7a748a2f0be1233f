podop --socket /run/podop/podop.sock --socket-group postfix --option '*:case=lower' \
  --name alias   --type url --param 'http://127.0.0.1:8080/alias?key=§'   --option 'alias:select=/*/goto' \
  --name domain  --type url --param 'http://127.0.0.1:8080/domain?key=§'  --option 'domain:select=/*/domain' \
  --name mailbox --type url --param 'http://127.0.0.1:8080/mailbox?key=§' --option 'mailbox:select=/*/maildir'

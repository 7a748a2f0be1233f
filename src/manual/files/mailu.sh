url=http://$ADMIN:8080/internal/postfix
podop --socket /tmp/podop.socket --socket-mode 0755 --mode postfix \
  --name transport    --type url --param "$url/transport/§" \
  --name alias        --type url --param "$url/alias/§" \
  --name dane         --type url --param "$url/dane/§" --option dane:connections=1 \
  --name domain       --type url --param "$url/domain/§" \
  --name mailbox      --type url --param "$url/mailbox/§" \
  --name recipientmap --type url --param "$url/recipient/map/§" \
  --name sendermap    --type url --param "$url/sender/map/§" \
  --name senderlogin  --type url --param "$url/sender/login/§" \
  --name senderrate   --type url --param "$url/sender/rate/§"

postmap -q - sqlite:/etc/postfix/alias.cf <keys >old
podop query /run/podop/podop.sock alias - <keys >new
diff old new

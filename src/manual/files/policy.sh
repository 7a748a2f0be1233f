podop --socket /run/podop/policy.sock --mode policy=policy --socket-group postfix \
  --name policy --type url --param http://127.0.0.1:8080/

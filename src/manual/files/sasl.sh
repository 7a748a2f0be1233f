podop --socket /run/podop/sasl.sock --mode sasl=login --socket /run/podop/podop.sock --mode postfix \
  --socket-group postfix \
  --name login --type url --param http://127.0.0.1:8080/login \
  --name owner --type url --param http://127.0.0.1:8080/owner/§

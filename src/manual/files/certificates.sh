mkdir -p /etc/podop
for name in admin.example.org mx1.example.org; do
  file=/etc/podop/${name%%.*}
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj "/CN=$name" \
    -addext "subjectAltName=DNS:$name" -addext basicConstraints=critical,CA:FALSE \
    -keyout "$file.key" -out "$file.pem"
done
cp /etc/podop/mx1.pem /etc/podop/clients.pem

install -m 0644 src/package/podop.service src/package/podop.socket /etc/systemd/system/
install -D -m 0644 src/package/podop.sysusers /etc/sysusers.d/podop.conf
systemd-sysusers
install -D -g podop -m 0640 src/package/podop.tables /etc/podop/tables
systemctl daemon-reload

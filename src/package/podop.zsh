#compdef podop
# Completion for zsh.

_podop() {
    case $words[2] in
    help)
        local -a chapters
        chapters=(${(f)"$(podop help 2>/dev/null | sed -n 's/^  podop help \([a-z]*\)  *\(.*\)/\1:\2/p')"})
        (( CURRENT == 3 )) && _describe chapter chapters
        ;;
    query)
        _arguments '1:command:' '-v[show which keys were asked for]' \
            '--mode[protocol]:mode:(postfix dovecot policy sasl)' '--user[look up as this user of Dovecot]:user:' \
            '2:socket:_files' '*:argument:'
        ;;
    status)
        _arguments '1:command:' '2:metrics listener:_files'
        ;;
    *)
        (( CURRENT == 2 )) && compadd query status help
        _arguments \
            '*--socket[where to listen]:socket:_files' \
            '*--mode[protocol]:mode:(postfix dovecot auto policy= sasl=)' \
            '--socket-mode[permissions of the sockets]:mode:' \
            '--socket-owner[their owner]:user:_users' \
            '--socket-group[their group]:group:_groups' \
            '*--name[name of a table]:name:' \
            '*--type[type of the table]:type:(url file mx program)' \
            '*--param[source of the table]:source:' \
            '*--option[setting of a table]:NAME\:KEY=VALUE:' \
            '--timeout[total time limit per request]:seconds:' \
            '--slow[log slower backend requests]:seconds:' \
            '--cache-size[memory limit of the cache]:size:' \
            '--metrics[serve metrics]:address:_files' \
            '*-v[log more]' '-vv[log most]' '*--verbose[log more]' \
            '--check=-[check tables and backends]:key:' \
            '--version[print the version]' '--help[print a summary]' \
            '*:arguments from a file:_files -P @'
        ;;
    esac
}

_podop "$@"

# Completion for bash.
_podop() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
    local flags='--socket --mode --socket-mode --socket-owner --socket-group --name --type --param --option --timeout
        --slow --cache-size --metrics -v -vv --verbose --check --version --help'
    COMPREPLY=()
    case $before in
    --socket | --metrics)
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        return
        ;;
    --mode)
        mapfile -t COMPREPLY < <(compgen -W 'postfix dovecot auto policy sasl' -- "$word")
        return
        ;;
    --type)
        mapfile -t COMPREPLY < <(compgen -W 'url file mx program' -- "$word")
        return
        ;;
    --socket-owner | --user)
        mapfile -t COMPREPLY < <(compgen -u -- "$word")
        return
        ;;
    --socket-group)
        mapfile -t COMPREPLY < <(compgen -g -- "$word")
        return
        ;;
    esac
    case ${COMP_WORDS[1]} in
    help)
        [ "$COMP_CWORD" -ne 2 ] ||
            mapfile -t COMPREPLY < <(compgen -W "$(podop help 2>/dev/null | sed -n 's/^  podop help \([a-z]*\) .*/\1/p')" -- "$word")
        return
        ;;
    query) flags='-v --mode --user' ;;
    esac
    case $word in
    @*) mapfile -t COMPREPLY < <(compgen -f -P @ -- "${word#@}") ;;
    -*) mapfile -t COMPREPLY < <(compgen -W "$flags" -- "$word") ;;
    *)
        [ "$COMP_CWORD" -ne 1 ] || mapfile -t COMPREPLY < <(compgen -W 'query status help' -- "$word")
        [ "${#COMPREPLY[@]}" -ne 0 ] || mapfile -t COMPREPLY < <(compgen -f -- "$word")
        ;;
    esac
}
complete -o filenames -F _podop podop

# Completion of lafs for bash; made by `lafs generate-docs`, not by hand.
_lafs_files() {
    compopt -o filenames 2>/dev/null
    local IFS=$'\n'
    COMPREPLY=($(compgen "$1" -- "$cur"))
}

_lafs_targets() {
    case $cur in
        @*)
            compopt -o filenames 2>/dev/null
            local IFS=$'\n'
            COMPREPLY=($(compgen -P @ -f -- "${cur#@}"))
            ;;
        *)
            _lafs_files -f
            _lafs_aliases
            ;;
    esac
}

_lafs_home() {
    local i
    home=${LAFS_HOME:-${XDG_CONFIG_HOME:-$HOME/.config}/lafs}
    for ((i = 1; i < COMP_CWORD; i++)); do
        [[ ${COMP_WORDS[i]} == --home ]] || continue
        [[ ${COMP_WORDS[i+1]} == = ]] && i=$((i + 1))
        home=${COMP_WORDS[i+1]}
    done
}

_lafs_aliases() {
    local home name rest
    [[ $cur == *[:/]* ]] && return
    _lafs_home
    [[ -r $home/aliases ]] || return
    while IFS=: read -r name rest; do
        if [[ $name != \#* && -n $rest && $name == "$cur"* ]]; then
            COMPREPLY+=("$name:")
            compopt -o nospace 2>/dev/null
        fi
    done < "$home/aliases"
}

_lafs_alias_names() {
    local home name rest
    _lafs_home
    [[ -r $home/aliases ]] || return
    while IFS=: read -r name rest; do
        [[ $name != \#* && -n $rest && $name == "$cur"* ]] && COMPREPLY+=("$name")
    done < "$home/aliases"
}

_lafs_words() {
    COMPREPLY=($(compgen -W "$1" -- "$cur"))
}

_lafs() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command= ended= count=0 word i
    COMPREPLY=()
    if [[ $prev == = ]]; then
        prev=${COMP_WORDS[COMP_CWORD-2]}
    elif [[ $cur == = ]]; then
        cur=
    fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ -z $ended ]]; then
            case $word in
                --) ended=1; continue ;;
                --color|--log-file|--limit-rate|--timeout|--home|--encoding|--from-tahoe|--site|--node-id|--permutation-seed|--option|--root|--to|--share|--max-age|--passphrase-file|--memory|--from|--kit|--format|--private-key|--segment-size|--offset|--length|--name|--size|--type|--sample|--assume-lost|--max-time|--grace|--lock-wait|--host|--older-than|--cutoff|--only|--exclude|--exclude-from|--exclude-larger-than|--files-from|--stdin-filename|--confirm|--include|--overwrite|--keep-last|--keep-daily|--keep-weekly|--keep-monthly|--keep-yearly|--keep-within|--listen|--quota|--reserve|--history|--host-key|--authorized-keys|--max-connections|--login-timeout|--idle-timeout|--tls-cert|--tls-key|--allow-host|--accounts)
                    [[ ${COMP_WORDS[i+1]} == = ]] && i=$((i + 1))
                    i=$((i + 1))
                    continue
                    ;;
                -?*) continue ;;
            esac
        fi
        case $command in
            '') command=$word ;;
            server|alias|grid|recovery|cap|share|gateway) command="$command $word" ;;
            *) count=$((count + 1)) ;;
        esac
    done
    if [[ -z $ended ]]; then
        case $command:$prev in
            *:--color) _lafs_words 'auto always never'; return ;;
            *:--log-file) _lafs_files -f; return ;;
            *:--limit-rate) :; return ;;
            *:--timeout) :; return ;;
            *:--home) _lafs_files -d; return ;;
            "init":--encoding) :; return ;;
            "init":--from-tahoe) _lafs_files -d; return ;;
            "server add":--site) :; return ;;
            "server add":--node-id) :; return ;;
            "server add":--permutation-seed) :; return ;;
            "server add":--option) :; return ;;
            "server replace":--site) :; return ;;
            "server replace":--node-id) :; return ;;
            "server replace":--permutation-seed) :; return ;;
            "server replace":--option) :; return ;;
            "server history":--root) _lafs_files -d; return ;;
            "server rollback":--root) _lafs_files -d; return ;;
            "server rollback":--to) :; return ;;
            "server rollback":--share) :; return ;;
            "status":--max-age) :; return ;;
            "recovery export":--passphrase-file) _lafs_files -f; return ;;
            "recovery export":--memory) :; return ;;
            "recovery import":--from) :; return ;;
            "recovery import":--kit) :; return ;;
            "recovery import":--passphrase-file) _lafs_files -f; return ;;
            "recovery import":--option) :; return ;;
            "put":--format) _lafs_words 'chk sdmf mdmf'; return ;;
            "put":--private-key) _lafs_files -f; return ;;
            "put":--encoding) :; return ;;
            "put":--segment-size) :; return ;;
            "get":--offset) :; return ;;
            "get":--length) :; return ;;
            "mkdir":--format) _lafs_words 'sdmf mdmf'; return ;;
            "mkdir":--private-key) _lafs_files -f; return ;;
            "find":--name) :; return ;;
            "find":--size) :; return ;;
            "find":--type) _lafs_words 'file directory unknown f d u'; return ;;
            "check":--sample) :; return ;;
            "check":--assume-lost) :; return ;;
            "check":--max-time) :; return ;;
            "repair":--assume-lost) :; return ;;
            "repair":--max-time) :; return ;;
            "gc":--grace) :; return ;;
            "gc":--root) _lafs_targets; return ;;
            "gc":--lock-wait) :; return ;;
            "gc":--host) _lafs_files -d; return ;;
            "gc":--older-than) :; return ;;
            "gc":--cutoff) :; return ;;
            "gc":--only) _lafs_words 'mutable immutable'; return ;;
            "backup":--exclude) :; return ;;
            "backup":--exclude-from) _lafs_files -f; return ;;
            "backup":--exclude-larger-than) :; return ;;
            "backup":--files-from) _lafs_files -f; return ;;
            "backup":--stdin-filename) :; return ;;
            "backup":--confirm) _lafs_words 'quick full'; return ;;
            "backup":--lock-wait) :; return ;;
            "restore":--include) :; return ;;
            "restore":--exclude) :; return ;;
            "restore":--overwrite) _lafs_words 'always if-newer never'; return ;;
            "forget":--keep-last) :; return ;;
            "forget":--keep-daily) :; return ;;
            "forget":--keep-weekly) :; return ;;
            "forget":--keep-monthly) :; return ;;
            "forget":--keep-yearly) :; return ;;
            "forget":--keep-within) :; return ;;
            "serve":--root) _lafs_files -d; return ;;
            "serve":--listen) :; return ;;
            "serve":--quota) :; return ;;
            "serve":--reserve) :; return ;;
            "serve":--history) :; return ;;
            "serve":--host-key) _lafs_files -f; return ;;
            "serve":--authorized-keys) _lafs_files -f; return ;;
            "serve":--max-connections) :; return ;;
            "serve":--login-timeout) :; return ;;
            "serve":--idle-timeout) :; return ;;
            "gateway http":--listen) :; return ;;
            "gateway http":--tls-cert) _lafs_files -f; return ;;
            "gateway http":--tls-key) _lafs_files -f; return ;;
            "gateway http":--allow-host) :; return ;;
            "gateway http":--idle-timeout) :; return ;;
            "gateway sftp":--accounts) _lafs_files -f; return ;;
            "gateway sftp":--listen) :; return ;;
            "gateway sftp":--host-key) _lafs_files -f; return ;;
            "gateway sftp":--max-connections) :; return ;;
            "gateway sftp":--login-timeout) :; return ;;
            "gateway sftp":--idle-timeout) :; return ;;
        esac
        if [[ $cur == -* ]]; then
            case $command in
                'init') word='--local --encoding --from-tahoe' ;;
                'server add') word='--readonly --site --node-id --permutation-seed --option --accept-new' ;;
                'server remove') word='--force' ;;
                'server replace') word='--site --node-id --permutation-seed --option --accept-new --force' ;;
                'server history') word='--root' ;;
                'server rollback') word='--root --to --share -n --dry-run' ;;
                'status') word='--max-age' ;;
                'alias list') word='--uri --readonly-uri' ;;
                'recovery export') word='--passphrase-file --on-servers --force --memory' ;;
                'recovery import') word='--from --kit --passphrase-file --option --accept-new' ;;
                'put') word='--format --mutable --private-key --encoding --segment-size --no-convergence' ;;
                'get') word='--offset --length --resume --strict' ;;
                'cat') word='--strict' ;;
                'ls') word='-l --long -R --recursive -F --classify --uri --readonly-uri -0 --null' ;;
                'mkdir') word='--format --private-key' ;;
                'ln') word='--readonly' ;;
                'rm') word='-r --recursive' ;;
                'cp') word='-r -R --recursive -p --preserve -L --dereference' ;;
                'find') word='--name --size --type -0' ;;
                'manifest') word='--storage-index --verify-cap --read-cap' ;;
                'check') word='-r --recursive --verify --sample --repair --rebalance --assume-lost --add-lease --max-time --force' ;;
                'repair') word='-r --recursive --assume-lost --add-lease --max-time --force' ;;
                'gc') word='--delete --grace --undo --root --adopt --lock-wait --host --older-than --cutoff --only --leaseless' ;;
                'backup') word='--exclude --exclude-from --exclude-vcs --exclude-caches --exclude-larger-than --one-file-system --files-from --stdin --stdin-filename --ignore-timestamps --confirm -n --dry-run --lock-wait' ;;
                'restore') word='--include --exclude --overwrite -n --dry-run --verify --tar' ;;
                'forget') word='--keep-last --keep-daily --keep-weekly --keep-monthly --keep-yearly --keep-within -n --dry-run' ;;
                'serve') word='--root --listen --stdio --scrub --print-setup --append-only --read-only --quota --reserve --history --host-key --authorized-keys --max-connections --login-timeout --idle-timeout' ;;
                'gateway http') word='--listen --tls-cert --tls-key --allow-host --no-unlinked --idle-timeout --insecure' ;;
                'gateway sftp') word='--accounts --listen --host-key --max-connections --login-timeout --idle-timeout' ;;
                '') word=--version ;;
                *) word= ;;
            esac
            _lafs_words "$word --json -q --quiet -v --verbose --progress --no-progress --color --log-file --limit-rate --timeout --home -h --help"
            return
        fi
    fi
    case $command:$count in
        :*) _lafs_words 'init server status encoding alias grid recovery put get cat ls mkdir ln mv rm cp find manifest stats cap batch check repair renew gc unpin share backup snapshots restore diff forget serve gateway completion help man' ;;
        server:*) _lafs_words 'add list status remove scan drain replace history rollback' ;;
        alias:*) _lafs_words 'create add list remove rename' ;;
        grid:*) _lafs_words 'export import' ;;
        recovery:*) _lafs_words 'export import' ;;
        cap:*) _lafs_words 'show read verify' ;;
        share:*) _lafs_words 'show find' ;;
        gateway:*) _lafs_words 'http sftp' ;;
        "alias add":*) _lafs_targets ;;
        "alias remove":*) _lafs_alias_names ;;
        "alias rename":0) _lafs_alias_names ;;
        "grid export":*) _lafs_files -f ;;
        "grid import":*) _lafs_files -f ;;
        "recovery export":*) _lafs_files -f ;;
        "recovery import":*) _lafs_files -f ;;
        "put":0) _lafs_files -f ;;
        "put":*) _lafs_targets ;;
        "get":0) _lafs_targets ;;
        "get":*) _lafs_files -f ;;
        "cat":*) _lafs_targets ;;
        "ls":*) _lafs_targets ;;
        "mkdir":*) _lafs_targets ;;
        "ln":0) _lafs_targets ;;
        "ln":*) _lafs_targets ;;
        "mv":0) _lafs_targets ;;
        "mv":*) _lafs_targets ;;
        "rm":*) _lafs_targets ;;
        "cp":0) _lafs_targets ;;
        "cp":*) _lafs_targets ;;
        "find":*) _lafs_targets ;;
        "manifest":*) _lafs_targets ;;
        "stats":*) _lafs_targets ;;
        "cap show":*) _lafs_targets ;;
        "cap read":*) _lafs_targets ;;
        "cap verify":*) _lafs_targets ;;
        "batch":*) _lafs_files -f ;;
        "check":*) _lafs_targets ;;
        "repair":*) _lafs_targets ;;
        "renew":*) _lafs_targets ;;
        "unpin":*) _lafs_targets ;;
        "share show":*) _lafs_files -f ;;
        "share find":*) _lafs_targets ;;
        "backup":0) _lafs_targets ;;
        "backup":*) _lafs_targets ;;
        "snapshots":*) _lafs_targets ;;
        "restore":0) _lafs_targets ;;
        "restore":*) _lafs_files -f ;;
        "forget":*) _lafs_targets ;;
        "completion":*) _lafs_words 'bash zsh fish' ;;
        "help":*) _lafs_words 'init server status encoding alias grid recovery put get cat ls mkdir ln mv rm cp find manifest stats cap batch check repair renew gc unpin share backup snapshots restore diff forget serve gateway completion help man' ;;
        "man":*) _lafs_words 'init server status encoding alias grid recovery put get cat ls mkdir ln mv rm cp find manifest stats cap batch check repair renew gc unpin share backup snapshots restore diff forget serve gateway completion help man' ;;
    esac
}

complete -F _lafs lafs

# Completion of lafs for fish; made by `lafs generate-docs`, not by hand.
function __lafs_at --description 'Is the command before the cursor this one?'
    set -l found
    set -l skip 0
    for word in (commandline -opc)[2..-1]
        if test $skip = 1
            set skip 0
            continue
        end
        switch $word
            case --color --log-file --limit-rate --timeout --home --encoding --from-tahoe --site --node-id --permutation-seed --option --root --to --share --max-age --passphrase-file --memory --from --kit --format --private-key --segment-size --offset --length --name --size --type --sample --assume-lost --max-time --grace --lock-wait --host --older-than --cutoff --only --exclude --exclude-from --exclude-larger-than --files-from --stdin-filename --confirm --include --overwrite --keep-last --keep-daily --keep-weekly --keep-monthly --keep-yearly --keep-within --listen --quota --reserve --history --host-key --authorized-keys --max-connections --login-timeout --idle-timeout --tls-cert --tls-key --allow-host --accounts
                set skip 1
            case '-*'
            case '*'
                set -a found $word
                contains -- $found[1] server alias grid recovery cap share gateway; and test (count $found) -lt 2; and continue
                break
        end
    end
    test "$found" = "$argv"
end

function __lafs_at_files --description 'Files, where the word is @FILE'
    set -l word (commandline -ct)
    if string match -q -- '@*' $word
        for path in (__fish_complete_path (string sub -s 2 -- $word))
            echo @$path
        end
    end
end

function __lafs_aliases --description 'Names of aliases, and what the first argument says behind each'
    set -l home $HOME/.config/lafs
    set -q XDG_CONFIG_HOME; and set home $XDG_CONFIG_HOME/lafs
    set -q LAFS_HOME; and test -n "$LAFS_HOME"; and set home $LAFS_HOME
    set -l words (commandline -opc)
    set -l at (contains -i -- --home $words); and set home $words[(math $at + 1)]
    test -r $home/aliases; or return
    while read -l line
        set -l name (string match -r '^([^#:]+):.' -- $line)[2]
        and echo "$name$argv"
    end < $home/aliases
end

complete -c lafs -f
complete -c lafs -n '__lafs_at' -a init -d 'Make a home: configuration and secrets'
complete -c lafs -n '__lafs_at' -a server -d 'The servers of this home'
complete -c lafs -n '__lafs_at' -a status -d 'Show servers, and the last good backup and check of each root'
complete -c lafs -n '__lafs_at' -a encoding -d 'Show or set how many shares a file gets'
complete -c lafs -n '__lafs_at' -a alias -d 'Names for directories and files'
complete -c lafs -n '__lafs_at' -a grid -d 'What others need to use your caps'
complete -c lafs -n '__lafs_at' -a recovery -d 'What brings this home back on another machine'
complete -c lafs -n '__lafs_at' -a put -d 'Store a file and print its cap'
complete -c lafs -n '__lafs_at' -a get -d 'Fetch a file'
complete -c lafs -n '__lafs_at' -a cat -d 'Write files to stdout'
complete -c lafs -n '__lafs_at' -a ls -d 'List a directory'
complete -c lafs -n '__lafs_at' -a mkdir -d 'Make a directory and print its write cap'
complete -c lafs -n '__lafs_at' -a ln -d 'Give an object a name in a directory'
complete -c lafs -n '__lafs_at' -a mv -d 'Give an entry another name or place'
complete -c lafs -n '__lafs_at' -a rm -d 'Remove links from directories'
complete -c lafs -n '__lafs_at' -a cp -d 'Copy files and directories to the grid, from it, or within it'
complete -c lafs -n '__lafs_at' -a find -d 'Find files and directories in a tree'
complete -c lafs -n '__lafs_at' -a manifest -d 'List every object of a tree with its cap'
complete -c lafs -n '__lafs_at' -a stats -d 'Count what is in a tree, and how large it is'
complete -c lafs -n '__lafs_at' -a cap -d 'What a cap is and what it grants'
complete -c lafs -n '__lafs_at' -a batch -d 'Run one command a line over one set of connections'
complete -c lafs -n '__lafs_at' -a check -d 'Count the shares of objects, or prove them'
complete -c lafs -n '__lafs_at' -a repair -d 'Bring objects back to all their shares'
complete -c lafs -n '__lafs_at' -a renew -d 'Renew the leases of what is stored'
complete -c lafs -n '__lafs_at' -a gc -d 'Throw away what nothing leads to, or at a storage host what no lease holds'
complete -c lafs -n '__lafs_at' -a unpin -d 'Let go of what was stored without a name'
complete -c lafs -n '__lafs_at' -a share -d 'Shares on servers and on disk'
complete -c lafs -n '__lafs_at' -a backup -d 'Store a snapshot of a folder, and print its path'
complete -c lafs -n '__lafs_at' -a snapshots -d 'List the snapshots of a backup, the oldest first'
complete -c lafs -n '__lafs_at' -a restore -d 'Write a snapshot or a part of it into a folder'
complete -c lafs -n '__lafs_at' -a diff -d 'Show what is different between two directories'
complete -c lafs -n '__lafs_at' -a forget -d 'Remove snapshots, but for those that rules keep'
complete -c lafs -n '__lafs_at' -a serve -d 'Serve a folder of shares over SFTP, and keep them from harm'
complete -c lafs -n '__lafs_at' -a gateway -d 'The grid for programs that know no caps'
complete -c lafs -n '__lafs_at' -a completion -d 'Print the completion script for a shell'
complete -c lafs -n '__lafs_at' -a help -d 'Show the help of a command, or list the commands'
complete -c lafs -n '__lafs_at' -a man -d 'Show the manual page of a command'
complete -c lafs -n '__lafs_at server' -a add -d 'Add a server under a name'
complete -c lafs -n '__lafs_at server' -a list -d 'List the servers of this home'
complete -c lafs -n '__lafs_at server' -a status -d 'Ask servers how they are'
complete -c lafs -n '__lafs_at server' -a remove -d 'Forget a server; its shares stay there'
complete -c lafs -n '__lafs_at server' -a scan -d 'List every share on a server'
complete -c lafs -n '__lafs_at server' -a drain -d 'Copy our shares from a server to the others'
complete -c lafs -n '__lafs_at server' -a replace -d 'Put a new server in the place of another'
complete -c lafs -n '__lafs_at server' -a history -d 'List the versions of mutable shares that a storage host has kept'
complete -c lafs -n '__lafs_at server' -a rollback -d 'Put a kept version of a mutable object back in place'
complete -c lafs -n '__lafs_at alias' -a create -d 'Make a directory and give it a name'
complete -c lafs -n '__lafs_at alias' -a add -d 'Give a name to what TARGET leads to'
complete -c lafs -n '__lafs_at alias' -a list -d 'List the names that caps were given'
complete -c lafs -n '__lafs_at alias' -a remove -d 'Forget a name, and print the cap that it stood for'
complete -c lafs -n '__lafs_at alias' -a rename -d 'Give an alias another name'
complete -c lafs -n '__lafs_at grid' -a export -d 'Write servers, host keys and encoding to a file'
complete -c lafs -n '__lafs_at grid' -a import -d 'Take servers and encoding from a grid file'
complete -c lafs -n '__lafs_at recovery' -a export -d 'Write all that brings this home back to a sealed file'
complete -c lafs -n '__lafs_at recovery' -a import -d 'Make a home from a recovery kit'
complete -c lafs -n '__lafs_at cap' -a show -d 'Show what a cap is and grants'
complete -c lafs -n '__lafs_at cap' -a read -d 'Print the read cap'
complete -c lafs -n '__lafs_at cap' -a verify -d 'Print the verify cap'
complete -c lafs -n '__lafs_at share' -a show -d 'Show what is in a share'
complete -c lafs -n '__lafs_at share' -a find -d 'Ask every server for the shares of an object'
complete -c lafs -n '__lafs_at gateway' -a http -d 'Offer the grid over HTTP or HTTPS'
complete -c lafs -n '__lafs_at gateway' -a sftp -d 'Offer directories of the grid over SFTP'
complete -c lafs -l json -d 'Answer with one JSON document'
complete -c lafs -s q -l quiet -d 'Only the answer, only errors'
complete -c lafs -s v -l verbose -d 'Tell more; may be repeated'
complete -c lafs -l progress -l no-progress -d 'Draw progress (default: on a terminal)'
complete -c lafs -l color -x -a 'auto always never' -d 'Colour on stderr (default: auto)'
complete -c lafs -l log-file -r -F -d 'Append a log of JSON lines, without caps'
complete -c lafs -l limit-rate -x -d 'Bytes a second, over all servers'
complete -c lafs -l timeout -x -d 'Give a silent server up after so long'
complete -c lafs -l home -x -a '(__fish_complete_directories)' -d 'Configuration and secrets'
complete -c lafs -s h -l help -d 'Show help and exit'
complete -c lafs -n '__lafs_at' -l version -d 'Show the version'
complete -c lafs -n '__lafs_at init' -l local -d 'Add ten servers that are folders of this machine'
complete -c lafs -n '__lafs_at init' -l encoding -x -d 'Any K of N shares rebuild a file, on at least H servers [3/7/10]'
complete -c lafs -n '__lafs_at init' -l from-tahoe -x -a '(__fish_complete_directories)' -d 'Take secrets, aliases and encoding of a Tahoe-LAFS client'
complete -c lafs -n '__lafs_at server add' -l readonly -d 'Take shares from it, give it none; writes nothing there'
complete -c lafs -n '__lafs_at server add' -l site -x -d 'Where it stands; shares are spread over sites'
complete -c lafs -n '__lafs_at server add' -l node-id -x -d 'Its id: base32, or 40 hex digits'
complete -c lafs -n '__lafs_at server add' -l permutation-seed -x -d 'Its seed: base32, as in Tahoe\'s file'
complete -c lafs -n '__lafs_at server add' -l option -x -d 'How to reach it; may be repeated'
complete -c lafs -n '__lafs_at server add' -l accept-new -d 'Accept and record a host key that is not known yet'
complete -c lafs -n '__lafs_at server remove' -l force -d 'Even when fewer servers than happy are left'
complete -c lafs -n '__lafs_at server replace' -l site -x -d 'Where it stands; shares are spread over sites'
complete -c lafs -n '__lafs_at server replace' -l node-id -x -d 'Its id: base32, or 40 hex digits'
complete -c lafs -n '__lafs_at server replace' -l permutation-seed -x -d 'Its seed: base32, as in Tahoe\'s file'
complete -c lafs -n '__lafs_at server replace' -l option -x -d 'How to reach it; may be repeated'
complete -c lafs -n '__lafs_at server replace' -l accept-new -d 'Accept and record a host key that is not known yet'
complete -c lafs -n '__lafs_at server replace' -l force -d 'Forget OLD even if something on it could not be saved'
complete -c lafs -n '__lafs_at server history' -l root -x -a '(__fish_complete_directories)' -d 'The folder that contains shares/ (of a Tahoe node: NODEDIR/storage)'
complete -c lafs -n '__lafs_at server rollback' -l root -x -a '(__fish_complete_directories)' -d 'The folder that contains shares/ (of a Tahoe node: NODEDIR/storage)'
complete -c lafs -n '__lafs_at server rollback' -l to -x -d 'Which version; else the one before'
complete -c lafs -n '__lafs_at server rollback' -l share -x -d 'Only this share'
complete -c lafs -n '__lafs_at server rollback' -s n -l dry-run -d 'Only say what would be done'
complete -c lafs -n '__lafs_at status' -l max-age -x -d 'Exit 10 when a backup or check is older'
complete -c lafs -n '__lafs_at alias add' -F
complete -c lafs -n '__lafs_at alias add' -a '(__lafs_at_files) (__lafs_aliases :)'
complete -c lafs -n '__lafs_at alias list' -l uri -d 'Show the caps too: write caps where there are'
complete -c lafs -n '__lafs_at alias list' -l readonly-uri -d 'Show the read caps too'
complete -c lafs -n '__lafs_at alias remove' -a '(__lafs_aliases)'
complete -c lafs -n '__lafs_at alias rename' -a '(__lafs_aliases)'
complete -c lafs -n '__lafs_at grid export' -F
complete -c lafs -n '__lafs_at grid import' -F
complete -c lafs -n '__lafs_at recovery export' -l passphrase-file -r -F -d 'Read the passphrase from the first line of FILE; - is stdin'
complete -c lafs -n '__lafs_at recovery export' -l on-servers -d 'Leave the sealed kit on every server that takes shares, too'
complete -c lafs -n '__lafs_at recovery export' -l force -d 'Replace FILE if it is there'
complete -c lafs -n '__lafs_at recovery export' -l memory -x -d 'What each try of a passphrase takes, 8M to 1G [256M]'
complete -c lafs -n '__lafs_at recovery export' -F
complete -c lafs -n '__lafs_at recovery import' -l from -x -d 'Take the kit that was left on this server'
complete -c lafs -n '__lafs_at recovery import' -l kit -x -d 'Which kit, where several homes left theirs on that server'
complete -c lafs -n '__lafs_at recovery import' -l passphrase-file -r -F -d 'Read the passphrase from the first line of FILE; - is stdin'
complete -c lafs -n '__lafs_at recovery import' -l option -x -d 'How this machine reaches the servers; may be repeated'
complete -c lafs -n '__lafs_at recovery import' -l accept-new -d 'Accept and record a host key of --from that is not known yet'
complete -c lafs -n '__lafs_at recovery import' -F
complete -c lafs -n '__lafs_at put' -l format -x -a 'chk sdmf mdmf' -d 'What to make: chk unless said'
complete -c lafs -n '__lafs_at put' -l mutable -d 'Make a mutable file: the same as --format sdmf'
complete -c lafs -n '__lafs_at put' -l private-key -r -F -d 'Make it with this RSA key (PEM, 2048 bits) instead of a new one'
complete -c lafs -n '__lafs_at put' -l encoding -x -d 'Any K of N shares rebuild the file, on at least H servers'
complete -c lafs -n '__lafs_at put' -l segment-size -x -d 'Largest segment; 1M unless said'
complete -c lafs -n '__lafs_at put' -l no-convergence -d 'Use a random key: equal files get different caps'
complete -c lafs -n '__lafs_at put' -F
complete -c lafs -n '__lafs_at put' -a '(__lafs_at_files) (__lafs_aliases :)'
complete -c lafs -n '__lafs_at get' -l offset -x -d 'Begin at byte N'
complete -c lafs -n '__lafs_at get' -l length -x -d 'Fetch N bytes; fewer where the file ends'
complete -c lafs -n '__lafs_at get' -l resume -d 'Go on where an earlier get of the same file stopped'
complete -c lafs -n '__lafs_at get' -l strict -d 'Refuse a version older than one that was seen before (exit 6)'
complete -c lafs -n '__lafs_at get' -F
complete -c lafs -n '__lafs_at get' -a '(__lafs_at_files) (__lafs_aliases :)'
complete -c lafs -n '__lafs_at cat' -l strict -d 'Refuse a version older than one that was seen before (exit 6)'
complete -c lafs -n '__lafs_at cat' -F
complete -c lafs -n '__lafs_at cat' -a '(__lafs_at_files) (__lafs_aliases :)'
complete -c lafs -n '__lafs_at ls' -s l -l long -d 'Also what it grants, its size, and when it was changed or linked'
complete -c lafs -n '__lafs_at ls' -s R -l recursive -d 'Also what is in the directories below, each once'
complete -c lafs -n '__lafs_at ls' -s F -l classify -d 'Behind names: / directory, * file that can be changed, ? unknown'
complete -c lafs -n '__lafs_at ls' -l uri -d 'Show the caps too: write caps where there are'
complete -c lafs -n '__lafs_at ls' -l readonly-uri -d 'Show the read caps too'
complete -c lafs -n '__lafs_at ls' -s 0 -l null -d 'End lines with NUL, and leave names as they are'
complete -c lafs -n '__lafs_at ls' -F
complete -c lafs -n '__lafs_at ls' -a '(__lafs_at_files) (__lafs_aliases :)'
complete -c lafs -n '__lafs_at mkdir' -l format -x -a 'sdmf mdmf' -d 'How to keep it: sdmf unless said'
complete -c lafs -n '__lafs_at mkdir' -l private-key -r -F -d 'Make it with this RSA key (PEM, 2048 bits) instead of a new one'
complete -c lafs -n '__lafs_at mkdir' -F
complete -c lafs -n '__lafs_at mkdir' -a '(__lafs_at_files) (__lafs_aliases :)'
complete -c lafs -n '__lafs_at ln' -l readonly -d 'Link what can be read and not changed'
complete -c lafs -n '__lafs_at ln' -F
complete -c lafs -n '__lafs_at ln' -a '(__lafs_at_files) (__lafs_aliases :)'
complete -c lafs -n '__lafs_at mv' -F
complete -c lafs -n '__lafs_at mv' -a '(__lafs_at_files) (__lafs_aliases :)'
complete -c lafs -n '__lafs_at rm' -s r -l recursive -d 'Also directories that are not empty'
complete -c lafs -n '__lafs_at rm' -F
complete -c lafs -n '__lafs_at rm' -a '(__lafs_at_files) (__lafs_aliases :)'
complete -c lafs -n '__lafs_at cp' -s r -s R -l recursive -d 'Copy directories with all that is in them'
complete -c lafs -n '__lafs_at cp' -s p -l preserve -d 'Keep the times and modes of files and folders'
complete -c lafs -n '__lafs_at cp' -s L -l dereference -d 'Follow symbolic links in folders here'
complete -c lafs -n '__lafs_at cp' -F
complete -c lafs -n '__lafs_at cp' -a '(__lafs_at_files) (__lafs_aliases :)'
complete -c lafs -n '__lafs_at find' -l name -x -d 'Only names that match, as a shell matches them'
complete -c lafs -n '__lafs_at find' -l size -x -d 'Only files of that size, larger (+) or smaller (-)'
complete -c lafs -n '__lafs_at find' -l type -x -a 'file directory unknown f d u' -d 'Only objects of that sort'
complete -c lafs -n '__lafs_at find' -s 0 -d 'End each path with a zero byte, and show it as it is'
complete -c lafs -n '__lafs_at find' -F
complete -c lafs -n '__lafs_at find' -a '(__lafs_at_files) (__lafs_aliases :)'
complete -c lafs -n '__lafs_at manifest' -l storage-index -d 'Only the storage index of each object'
complete -c lafs -n '__lafs_at manifest' -l verify-cap -d 'Only the verify cap of each object'
complete -c lafs -n '__lafs_at manifest' -l read-cap -d 'Only the read cap of each object'
complete -c lafs -n '__lafs_at manifest' -F
complete -c lafs -n '__lafs_at manifest' -a '(__lafs_at_files) (__lafs_aliases :)'
complete -c lafs -n '__lafs_at stats' -F
complete -c lafs -n '__lafs_at stats' -a '(__lafs_at_files) (__lafs_aliases :)'
complete -c lafs -n '__lafs_at cap show' -F
complete -c lafs -n '__lafs_at cap show' -a '(__lafs_at_files) (__lafs_aliases :)'
complete -c lafs -n '__lafs_at cap read' -F
complete -c lafs -n '__lafs_at cap read' -a '(__lafs_at_files) (__lafs_aliases :)'
complete -c lafs -n '__lafs_at cap verify' -F
complete -c lafs -n '__lafs_at cap verify' -a '(__lafs_at_files) (__lafs_aliases :)'
complete -c lafs -n '__lafs_at batch' -F
complete -c lafs -n '__lafs_at check' -s r -l recursive -d 'Also what directories lead to; a line for each object'
complete -c lafs -n '__lafs_at check' -l verify -d 'Read every share and prove it'
complete -c lafs -n '__lafs_at check' -l sample -x -d 'Verify only so much of all segments, chosen at random'
complete -c lafs -n '__lafs_at check' -l repair -d 'Make missing shares again, and replace corrupt ones'
complete -c lafs -n '__lafs_at check' -l rebalance -d 'Copy shares to servers without any, where too few hold them'
complete -c lafs -n '__lafs_at check' -l assume-lost -x -d 'Take a server for empty; may be repeated'
complete -c lafs -n '__lafs_at check' -l add-lease -d 'Renew our leases, and add them where there are none'
complete -c lafs -n '__lafs_at check' -l max-time -x -d 'Begin nothing more after so long'
complete -c lafs -n '__lafs_at check' -l force -d 'Let a mutable repair merge versions, or give up a newer one'
complete -c lafs -n '__lafs_at check' -F
complete -c lafs -n '__lafs_at check' -a '(__lafs_at_files) (__lafs_aliases :)'
complete -c lafs -n '__lafs_at repair' -s r -l recursive -d 'Also what directories lead to; a line for each object'
complete -c lafs -n '__lafs_at repair' -l assume-lost -x -d 'Take a server for empty; may be repeated'
complete -c lafs -n '__lafs_at repair' -l add-lease -d 'Renew our leases, and add them where there are none'
complete -c lafs -n '__lafs_at repair' -l max-time -x -d 'Begin nothing more after so long'
complete -c lafs -n '__lafs_at repair' -l force -d 'Let a mutable repair merge versions, or give up a newer one'
complete -c lafs -n '__lafs_at repair' -F
complete -c lafs -n '__lafs_at repair' -a '(__lafs_at_files) (__lafs_aliases :)'
complete -c lafs -n '__lafs_at renew' -F
complete -c lafs -n '__lafs_at renew' -a '(__lafs_at_files) (__lafs_aliases :)'
complete -c lafs -n '__lafs_at gc' -l delete -d 'Do it; without it nothing is changed, only counted'
complete -c lafs -n '__lafs_at gc' -l grace -x -d 'How long shares lie in the trash before they go for good [14d]'
complete -c lafs -n '__lafs_at gc' -l undo -d 'Bring back what lies in the trash, where no share stands now'
complete -c lafs -n '__lafs_at gc' -l root -r -F -d 'Keep this too, and all that it leads to'
complete -c lafs -n '__lafs_at gc' -l adopt -d 'Switch gc on in a home whose secrets came from elsewhere'
complete -c lafs -n '__lafs_at gc' -l lock-wait -x -d 'Wait so long for another gc of this home [0s]'
complete -c lafs -n '__lafs_at gc' -l host -x -a '(__fish_complete_directories)' -d 'The storage folder on this machine (contains shares/), not the home'
complete -c lafs -n '__lafs_at gc' -l older-than -x -d 'A lease ends so long after its last renewal, whatever it says'
complete -c lafs -n '__lafs_at gc' -l cutoff -x -d 'Instead: a lease has ended that was last renewed before'
complete -c lafs -n '__lafs_at gc' -l only -x -a 'mutable immutable' -d 'Leave shares of the other kind alone'
complete -c lafs -n '__lafs_at gc' -l leaseless -d 'Also shares on which nobody ever had, or has left, a lease'
complete -c lafs -n '__lafs_at unpin' -F
complete -c lafs -n '__lafs_at unpin' -a '(__lafs_at_files) (__lafs_aliases :)'
complete -c lafs -n '__lafs_at share show' -F
complete -c lafs -n '__lafs_at share find' -F
complete -c lafs -n '__lafs_at share find' -a '(__lafs_at_files) (__lafs_aliases :)'
complete -c lafs -n '__lafs_at backup' -l exclude -x -d 'Leave out, as in gitignore(5)'
complete -c lafs -n '__lafs_at backup' -l exclude-from -r -F -d 'The same, a pattern a line'
complete -c lafs -n '__lafs_at backup' -l exclude-vcs -d 'Leave out what version control keeps: .git and the like'
complete -c lafs -n '__lafs_at backup' -l exclude-caches -d 'Leave out what is in folders with a CACHEDIR.TAG'
complete -c lafs -n '__lafs_at backup' -l exclude-larger-than -x -d 'Leave out larger files'
complete -c lafs -n '__lafs_at backup' -l one-file-system -d 'Leave out what is mounted below SOURCE'
complete -c lafs -n '__lafs_at backup' -l files-from -r -F -d 'Keep only the paths in FILE, one a line; - for stdin'
complete -c lafs -n '__lafs_at backup' -l stdin -d 'Keep what comes on stdin as one file; SOURCE is -'
complete -c lafs -n '__lafs_at backup' -l stdin-filename -x -d 'What that file is called: stdin unless said'
complete -c lafs -n '__lafs_at backup' -l ignore-timestamps -d 'Read every file again'
complete -c lafs -n '__lafs_at backup' -l confirm -x -a 'quick full' -d 'How what is reused is looked for'
complete -c lafs -n '__lafs_at backup' -s n -l dry-run -d 'Say what would be read; store nothing'
complete -c lafs -n '__lafs_at backup' -l lock-wait -x -d 'Wait so long for another run of this backup'
complete -c lafs -n '__lafs_at backup' -F
complete -c lafs -n '__lafs_at backup' -a '(__lafs_at_files) (__lafs_aliases :)'
complete -c lafs -n '__lafs_at snapshots' -F
complete -c lafs -n '__lafs_at snapshots' -a '(__lafs_at_files) (__lafs_aliases :)'
complete -c lafs -n '__lafs_at restore' -l include -x -d 'Only what matches, as in gitignore(5)'
complete -c lafs -n '__lafs_at restore' -l exclude -x -d 'Not what matches'
complete -c lafs -n '__lafs_at restore' -l overwrite -x -a 'always if-newer never' -d 'What is done with files that are there: always unless said'
complete -c lafs -n '__lafs_at restore' -s n -l dry-run -d 'List what would be written; write nothing'
complete -c lafs -n '__lafs_at restore' -l verify -d 'Compare every file on the disk with the grid'
complete -c lafs -n '__lafs_at restore' -l tar -d 'Write a tar stream to stdout instead; there is no LOCAL then'
complete -c lafs -n '__lafs_at restore' -F
complete -c lafs -n '__lafs_at restore' -a '(__lafs_at_files) (__lafs_aliases :)'
complete -c lafs -n '__lafs_at forget' -l keep-last -x -d 'Keep the N newest'
complete -c lafs -n '__lafs_at forget' -l keep-daily -x -d 'Of N days, the newest of each'
complete -c lafs -n '__lafs_at forget' -l keep-weekly -x -d 'The same of weeks'
complete -c lafs -n '__lafs_at forget' -l keep-monthly -x -d 'The same of months'
complete -c lafs -n '__lafs_at forget' -l keep-yearly -x -d 'The same of years'
complete -c lafs -n '__lafs_at forget' -l keep-within -x -d 'Keep those of so long before the newest'
complete -c lafs -n '__lafs_at forget' -s n -l dry-run -d 'Say what would go; remove nothing'
complete -c lafs -n '__lafs_at forget' -F
complete -c lafs -n '__lafs_at forget' -a '(__lafs_at_files) (__lafs_aliases :)'
complete -c lafs -n '__lafs_at serve' -l root -x -a '(__fish_complete_directories)' -d 'The folder that holds shares/; made if it is not there'
complete -c lafs -n '__lafs_at serve' -l listen -x -d 'Be an SSH server at this address; port 0 takes a free one'
complete -c lafs -n '__lafs_at serve' -l stdio -d 'Speak SFTP on stdin and stdout, under the system\'s sshd'
complete -c lafs -n '__lafs_at serve' -l scrub -d 'Prove all shares, set bad ones aside, and end'
complete -c lafs -n '__lafs_at serve' -l print-setup -d 'Print a systemd unit and authorized_keys lines for this machine'
complete -c lafs -n '__lafs_at serve' -l append-only -d 'Nobody removes anything; replaced versions are kept'
complete -c lafs -n '__lafs_at serve' -l read-only -d 'Nobody changes anything'
complete -c lafs -n '__lafs_at serve' -l quota -x -d 'Bytes that all below DIR may take'
complete -c lafs -n '__lafs_at serve' -l reserve -x -d 'Bytes that stay free on the disk (default: 0)'
complete -c lafs -n '__lafs_at serve' -l history -x -d 'Replaced versions that are kept of each share, append-only (default: 20)'
complete -c lafs -n '__lafs_at serve' -l host-key -r -F -d 'The key that --listen shows; made if it is not there'
complete -c lafs -n '__lafs_at serve' -l authorized-keys -r -F -d 'The public keys that --listen lets in'
complete -c lafs -n '__lafs_at serve' -l max-connections -x -d 'Logged in at once with --listen (default: 100)'
complete -c lafs -n '__lafs_at serve' -l login-timeout -x -d 'How long a login may take with --listen (default: 30s)'
complete -c lafs -n '__lafs_at serve' -l idle-timeout -x -d 'End a connection that is silent for so long (default: 30m)'
complete -c lafs -n '__lafs_at gateway http' -l listen -x -d 'Where to listen; port 0 takes a free one'
complete -c lafs -n '__lafs_at gateway http' -l tls-cert -r -F -d 'Speak HTTPS with this certificate and its chain (PEM)'
complete -c lafs -n '__lafs_at gateway http' -l tls-key -r -F -d 'The key of the certificate (PEM, without a password)'
complete -c lafs -n '__lafs_at gateway http' -l allow-host -x -d 'Another name of the gateway, with :PORT or for any; repeatable'
complete -c lafs -n '__lafs_at gateway http' -l no-unlinked -d 'Store nothing that is in no directory'
complete -c lafs -n '__lafs_at gateway http' -l idle-timeout -x -d 'End a connection whose client takes or sends nothing for so long (default: 5m)'
complete -c lafs -n '__lafs_at gateway http' -l insecure -d 'Listen without TLS at an address that others reach'
complete -c lafs -n '__lafs_at gateway sftp' -l accounts -r -F -d 'Who may log in, and to which directory'
complete -c lafs -n '__lafs_at gateway sftp' -l listen -x -d 'Where to listen, port 0 takes a free one (default: 127.0.0.1:8022)'
complete -c lafs -n '__lafs_at gateway sftp' -l host-key -r -F -d 'The key that the gateway shows; made if it is not there'
complete -c lafs -n '__lafs_at gateway sftp' -l max-connections -x -d 'Logged in at once (default: 100)'
complete -c lafs -n '__lafs_at gateway sftp' -l login-timeout -x -d 'How long a login may take (default: 30s)'
complete -c lafs -n '__lafs_at gateway sftp' -l idle-timeout -x -d 'End a connection that asks for nothing for so long (default: 24h)'
complete -c lafs -n '__lafs_at completion' -a 'bash zsh fish'
complete -c lafs -n '__lafs_at help' -a 'init server status encoding alias grid recovery put get cat ls mkdir ln mv rm cp find manifest stats cap batch check repair renew gc unpin share backup snapshots restore diff forget serve gateway completion help man'
complete -c lafs -n '__lafs_at man' -a 'init server status encoding alias grid recovery put get cat ls mkdir ln mv rm cp find manifest stats cap batch check repair renew gc unpin share backup snapshots restore diff forget serve gateway completion help man'

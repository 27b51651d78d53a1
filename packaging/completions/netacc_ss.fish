complete -c netacc_ss -s s -l show -d 'What to show' -r -f -a "all\t'Everything'
cnt\t'Counters, and why connections stayed on kernel TCP'
sock\t'Connections'
link\t'Links'
proc\t'Processes alone: a line for each, with the library that it runs'"
complete -c netacc_ss -s p -l pid -d 'Show only this process' -r
complete -c netacc_ss -l counters -d 'Print counters only, one "name value" a line, for scripts'
complete -c netacc_ss -s h -l help -d 'Print help (see more with \'--help\')'
complete -c netacc_ss -s V -l version -d 'Print version'

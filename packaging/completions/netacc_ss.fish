complete -c netacc_ss -s s -l show -d 'What to show' -r -f -a "all\t'Everything'
cfg\t'The configuration in force, and where each value came from'
cnt\t'Counters, and why connections stayed on kernel TCP'
mem\t'Registered memory, rings, and what was moved out of them'
qp\t'Queue pairs'
sock\t'Connections'
link\t'Links'
proc\t'Processes alone: a line for each, with the library that it runs'"
complete -c netacc_ss -s p -l pid -d 'Show only this process' -r -f
complete -c netacc_ss -s o -l output -d 'Write to this file, whole or not at all, instead of standard output' -r -F
complete -c netacc_ss -l listen -d 'Serve Prometheus\' text format over HTTP, on 127.0.0.1 unless an address is given' -r -f
complete -c netacc_ss -s w -l watch -d 'Show rates again and again, after so many seconds (1 unless given)' -r -f
complete -c netacc_ss -s n -l times -d 'With --watch: end after so many times' -r -f
complete -c netacc_ss -s j -l json -d 'Print JSON (docs/netacc_ss.schema.json describes it)'
complete -c netacc_ss -l counters -d 'Print counters only, one "name value" a line, for scripts'
complete -c netacc_ss -l prometheus -d 'Print counters in Prometheus\' text format'
complete -c netacc_ss -s V -s v -l version -d 'Print version'
complete -c netacc_ss -s h -l help -d 'Print help (see more with \'--help\')'

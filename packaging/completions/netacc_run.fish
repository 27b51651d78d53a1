complete -c netacc_run -s s -d 'Largest message that is sent at once, in bytes (NACC_SOR_MSG_SIZE)' -r -f
complete -c netacc_run -s p -d 'Connections that one link carries at most (NACC_SOR_CONN_PER_QP)' -r -f
complete -c netacc_run -s t -d 'Threads that keep links moving (NACC_SOR_IO_THREADS)' -r -f
complete -c netacc_run -s A -d 'Processors of these threads: 0, 1, 2 or cpu:LIST (NACC_AFFINITY)' -r -f
complete -c netacc_run -s P -d 'Milliseconds that a waiting thread polls before it sleeps (NACC_SPIN_US)' -r -f
complete -c netacc_run -s f -d 'Configuration file instead of /etc/netacc.conf (NACC_CONF)' -r -F
complete -c netacc_run -s T -d 'Connect to unknown peers by TCP, and make a link for later (NACC_TCP_FIRST)'
complete -c netacc_run -s d -d 'Tell what NetACC does (NACC_LOG)'
complete -c netacc_run -l check -d 'Check configuration, installation and system, and stop'
complete -c netacc_run -l print-config -d 'Print each setting and where it comes from, and stop'
complete -c netacc_run -s v -l version -d 'Print version'
complete -c netacc_run -s h -l help -d 'Print help'

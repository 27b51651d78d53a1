complete -c netacc_run -s t -d 'Threads that keep links moving (NACC_SOR_IO_THREADS)' -r
complete -c netacc_run -s p -d 'Connections that one link carries at most (NACC_SOR_CONN_PER_QP)' -r
complete -c netacc_run -s f -d 'Configuration file instead of /etc/netacc.conf (NACC_CONF)' -r -F
complete -c netacc_run -s d -d 'Tell what NetACC does (NACC_LOG=debug)'
complete -c netacc_run -l check -d 'Check the configuration and stop'
complete -c netacc_run -s v -l version -d 'Print version'
complete -c netacc_run -s h -l help -d 'Print help'

//! The configuration in force as text, for who looks from outside.

use super::diagnostic::Origin;
use super::keys::KEYS;
use super::{Config, FabricName};

/// A line for each key: its name, its value and where that came from, between tabs.
pub(super) fn lines(config: &Config, set_by: &[Option<Origin>]) -> String {
    let mut out = String::new();
    for (key, origin) in KEYS.iter().zip(set_by) {
        let origin = match origin {
            Some(origin) => origin.to_string(),
            None => "default".to_owned(),
        };
        for (text, end) in [
            (key.name, '\t'),
            (&value(config, key.name), '\t'),
            (&origin, '\n'),
        ] {
            out.extend(text.chars().map(|c| if c.is_control() { '?' } else { c }));
            out.push(end);
        }
    }
    out
}

/// What a configuration file would have for it.
fn value(config: &Config, key: &str) -> String {
    let number: u64 = match key {
        "NACC_SOR_MSG_SIZE" => config.msg_size as u64,
        "NACC_RDMA_MR_MIN_INC_SIZE" => config.mr_min_inc_size as u64,
        "NACC_RDMA_MR_MAX_INC_SIZE" => config.mr_max_inc_size as u64,
        "NACC_SOR_CONN_PER_QP" => config.conn_per_qp.into(),
        "NACC_SOR_IO_THREADS" => config.io_threads.into(),
        "NACC_RING_SIZE" => config.ring_size as u64,
        "NACC_WINDOW_SIZE" => config.window_size as u64,
        "NACC_SPIN_US" => config.spin.as_micros() as u64,
        "NACC_CONNECT_TIMEOUT_MS" => config.connect_timeout.as_millis() as u64,
        "NACC_PEER_TTL_S" => config.peer_ttl.as_secs(),
        "NACC_SHORT_CONN_LIMIT" => config.short_conn_limit.into(),
        "NACC_SIDE_PORT_OFFSET" => config.side_port_offset.into(),
        "NACC_SOR_QP_IDLE_S" => match config.qp_idle {
            Some(time) => time.as_secs(),
            None => return "-1".to_owned(),
        },
        "NACC_LOG" => return format!("{:?}", config.log).to_ascii_lowercase(),
        "NACC_LOG_FILE" => return config.log_file.clone(),
        "NACC_FABRICS" if config.fabrics.is_empty() => return "none".to_owned(),
        "NACC_FABRICS" => {
            let name = |fabric: &FabricName| format!("{fabric:?}").to_ascii_lowercase();
            return config
                .fabrics
                .iter()
                .map(name)
                .collect::<Vec<_>>()
                .join(",");
        }
        _ => return "?".to_owned(),
    };
    number.to_string()
}

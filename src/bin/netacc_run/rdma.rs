//! What the system tells of its RDMA devices.

use std::fs;
use std::path::Path;

/// A device.
#[derive(Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name, such as `erdma_0`.
    pub name: String,
    /// A port of it is up.
    pub active: bool,
    /// The network interfaces that it belongs to.
    pub interfaces: Vec<String>,
    /// The version of its firmware, empty if it has none.
    pub firmware: String,
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)?;
        if !self.interfaces.is_empty() {
            write!(f, " on {}", self.interfaces.join(", "))?;
        }
        if !self.firmware.is_empty() {
            write!(f, " (firmware {})", self.firmware)?;
        }
        Ok(())
    }
}

/// The devices that `sysfs` (`/sys`) lists, by name.
pub fn devices(sysfs: &Path) -> Vec<Device> {
    let class = sysfs.join("class/infiniband");
    names(&class)
        .into_iter()
        .map(|name| {
            let ports = class.join(&name).join("ports");
            let firmware = read(&class.join(&name).join("fw_ver"));
            let mut device = Device {
                name,
                active: false,
                interfaces: Vec::new(),
                firmware,
            };
            for port in names(&ports) {
                let port = ports.join(port);
                // "4: ACTIVE"
                device.active |= read(&port.join("state")).starts_with("4:");
                let belongs = port.join("gid_attrs/ndevs");
                // Many entries are empty, and cannot be read.
                let interfaces = names(&belongs).into_iter().map(|n| read(&belongs.join(n)));
                device
                    .interfaces
                    .extend(interfaces.filter(|name| !name.is_empty()));
            }
            device.interfaces.sort();
            device.interfaces.dedup();
            device
        })
        .collect()
}

/// The character devices by which programs use these devices, in `dev` (`/dev`).
pub fn doors(sysfs: &Path, dev: &Path) -> Vec<std::path::PathBuf> {
    let verbs = names(&sysfs.join("class/infiniband_verbs"));
    let verbs = verbs.iter().filter(|name| name.starts_with("uverbs"));
    let all = verbs.map(String::as_str).chain(["rdma_cm"]);
    all.map(|name| dev.join("infiniband").join(name)).collect()
}

/// The names in a folder, sorted; none if there is no such folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

fn read(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.trim().to_owned()
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Files as Linux has them for these devices: name, state, interface.
    pub fn sysfs(devices: &[(&str, &str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (number, (name, state, interface)) in devices.iter().enumerate() {
            let port = root
                .path()
                .join("class/infiniband")
                .join(name)
                .join("ports/1");
            fs::create_dir_all(port.join("gid_attrs/ndevs")).unwrap();
            fs::write(port.join("state"), format!("{state}\n")).unwrap();
            fs::write(port.join("gid_attrs/ndevs/0"), format!("{interface}\n")).unwrap();
            fs::write(port.join("gid_attrs/ndevs/1"), format!("{interface}\n")).unwrap();
            fs::write(port.join("gid_attrs/ndevs/2"), "").unwrap();
            let verbs = root.path().join("class/infiniband_verbs");
            fs::create_dir_all(verbs.join(format!("uverbs{number}"))).unwrap();
            fs::write(verbs.join("abi_version"), "6\n").unwrap();
        }
        root
    }

    #[test]
    fn devices_are_told_with_their_interfaces() {
        let root = sysfs(&[
            ("rxe0", "4: ACTIVE", "eth0"),
            ("erdma_0", "1: DOWN", "eth1"),
        ]);
        let firmware = root.path().join("class/infiniband/erdma_0/fw_ver");
        fs::write(firmware, "1.2.3\n").unwrap();
        let found = devices(root.path());
        let shown: Vec<_> = found.iter().map(Device::to_string).collect();
        assert_eq!(shown, ["erdma_0 on eth1 (firmware 1.2.3)", "rxe0 on eth0"]);
        assert_eq!([found[0].active, found[1].active], [false, true]);
        let expected = [
            "/dev/infiniband/uverbs0",
            "/dev/infiniband/uverbs1",
            "/dev/infiniband/rdma_cm",
        ];
        assert_eq!(
            doors(root.path(), Path::new("/dev")),
            expected.map(std::path::PathBuf::from)
        );
    }

    #[test]
    fn a_host_without_devices_has_none() {
        assert_eq!(devices(sysfs(&[]).path()), []);
    }
}

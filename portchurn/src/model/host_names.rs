//! What this host calls addresses and ports: `/etc/hosts` and `/etc/services`. Nobody is asked over the network.

use std::net::IpAddr;

use hashbrown::HashMap;

/// Names by address and by TCP port.
#[derive(Clone, Debug, Default)]
pub struct HostNames {
    addresses: HashMap<IpAddr, String>,
    ports: HashMap<u16, String>,
}

impl HostNames {
    /// Reads what hosts(5) and services(5) describe. Lines that are not understood are passed over; of several names the
    /// first counts.
    pub fn parse(hosts: &str, services: &str) -> Self {
        let mut names = Self::default();
        for mut words in hosts.lines().map(words) {
            if let (Some(Ok(address)), Some(name)) = (words.next().map(str::parse), words.next()) {
                names.addresses.entry(address).or_insert_with(|| name.to_owned());
            }
        }
        for mut words in services.lines().map(words) {
            let (Some(name), Some(port)) = (words.next(), words.next()) else { continue };
            if let Some(Ok(port)) = port.strip_suffix("/tcp").map(str::parse) {
                names.ports.entry(port).or_insert_with(|| name.to_owned());
            }
        }
        names
    }

    /// The name of an address.
    pub fn address(&self, address: IpAddr) -> Option<&str> {
        self.addresses.get(&address).map(String::as_str)
    }

    /// The name of a TCP port.
    pub fn port(&self, port: u16) -> Option<&str> {
        self.ports.get(&port).map(String::as_str)
    }
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split('#').next().unwrap_or_default().split_whitespace()
}

#[cfg(test)]
mod tests {
    use super::HostNames;

    #[test]
    fn the_first_name_counts_and_nonsense_is_passed_over() {
        let names = HostNames::parse(
            "# hosts\n10.0.0.2 db1.example db1 # the database\n10.0.0.2 other\nfe80::1%eth0 link\nx y\n::1\n",
            "mysql 3306/tcp\nmysql 3306/udp\nsnmp 161/udp\nalias\nbig 99999/tcp\nhttp-alt 8080/tcp webcache\n",
        );
        assert_eq!(names.address([10, 0, 0, 2].into()), Some("db1.example"));
        assert_eq!(
            (names.port(3306), names.port(8080), names.port(161)),
            (Some("mysql"), Some("http-alt"), None)
        );
        assert_eq!((names.addresses.len(), names.ports.len()), (1, 2));
    }
}

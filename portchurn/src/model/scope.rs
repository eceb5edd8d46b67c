//! What the options of the tracer select. The kernel's tables show every socket, while counts are only of what was selected:
//! where the two meet, rows of others are left out, and what cannot be known is not said.

use std::net::IpAddr;

use crate::model::budget::{BudgetKind, PortBudget};

/// What is counted; by default everything.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Only this network namespace, inode number.
    pub netns: Option<u32>,
    /// Only connects to these ports.
    pub remote_ports: Option<Vec<u16>>,
    /// Only one version of IP: 4 or 6.
    pub ip_version: Option<u8>,
    /// Of the connects to one destination only some, or none: single processes were chosen, or accepts.
    pub is_partial: bool,
}

const UNKNOWN_RATE: &str = "how fast ports are taken is not known: connects of others are not counted here";

impl Scope {
    /// Whether anything is left out.
    pub fn is_narrow(&self) -> bool {
        self.is_partial || self.netns.is_some() || self.remote_ports.is_some() || self.ip_version.is_some()
    }

    /// The budgets of what was selected.
    pub fn applied(&self, mut rows: Vec<PortBudget>) -> Vec<PortBudget> {
        rows.retain(|row| self.has(row));
        if self.is_partial {
            for row in rows.iter_mut().filter(|row| row.kind == BudgetKind::Connect) {
                (row.opened_per_s, row.seconds_to_wall, row.seconds_to_exhaustion) = (None, None, None);
                UNKNOWN_RATE.clone_into(&mut row.assumption);
            }
        }
        rows
    }

    fn has(&self, row: &PortBudget) -> bool {
        let is_version = |address: IpAddr| self.ip_version == Some(if address.is_ipv4() { 4 } else { 6 });
        // A pool is for every destination: for those that were selected, too.
        let has_port = |ports: &Vec<u16>| row.remote_port.is_none_or(|port| ports.contains(&port));
        self.netns.is_none_or(|netns| netns == row.netns)
            && self.remote_ports.as_ref().is_none_or(has_port)
            && (self.ip_version.is_none() || row.remote_address.or(row.source_address).is_none_or(is_version))
    }
}

#[cfg(test)]
mod tests {
    use super::Scope;
    use crate::model::budget::{BudgetKind, PortBudget};

    fn row(remote_port: u16) -> PortBudget {
        PortBudget {
            kind: BudgetKind::Connect,
            netns: 7,
            source_address: None,
            remote_address: Some([10, 0, 0, 7].into()),
            remote_port: Some(remote_port),
            limit: Some(100),
            used: 50,
            time_wait: 50,
            established: 0,
            other: 0,
            pressure_ratio: Some(0.5),
            alarm: true,
            opened_per_s: Some(2.5),
            reuse: false,
            reuse_because: String::new(),
            seconds_to_wall: Some(1.0),
            seconds_to_exhaustion: Some(20.0),
            assumption: String::new(),
            failed: Some(0),
            failures_seen: "exact",
            holders: Vec::new(),
        }
    }

    fn applied(scope: &Scope) -> Vec<(Option<u16>, Option<f64>)> {
        let rows = scope.applied(vec![row(3306), row(80)]);
        let told = |row: &PortBudget| row.opened_per_s.and(row.seconds_to_exhaustion);
        rows.iter().map(|row| (row.remote_port, told(row))).collect()
    }

    #[test]
    fn rows_of_others_are_left_out_and_rates_of_some_are_not_told_as_those_of_all() {
        assert_eq!(applied(&Scope::default()), [(Some(3306), Some(20.0)), (Some(80), Some(20.0))]);
        let one = Scope { remote_ports: Some(vec![80]), ..Scope::default() };
        assert_eq!(applied(&one), [(Some(80), Some(20.0))], "all connects to it are counted");
        let some = Scope { is_partial: true, ..Scope::default() };
        assert_eq!(applied(&some), [(Some(3306), None), (Some(80), None)]);
        for other in
            [Scope { netns: Some(8), ..Scope::default() }, Scope { ip_version: Some(6), ..Scope::default() }]
        {
            assert!(other.is_narrow() && applied(&other).is_empty());
        }
    }
}

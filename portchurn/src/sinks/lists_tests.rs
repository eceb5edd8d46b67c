//! Lists of the common snapshot hold what they must. Here, because the snapshot is that of the outputs.

use crate::model::columns::Cell;
use crate::model::lists::{List, ports, time_wait};
use crate::model::snapshot::Snapshot;
use crate::sinks::sample_with_ports;

fn column(list: List, snapshot: &Snapshot, key: &str) -> Vec<Cell> {
    let sheet = list(snapshot);
    let at = sheet.heads.iter().position(|head| head.key == key).unwrap();
    sheet.rows.iter().map(|row| row.cells[at].clone()).collect()
}

#[test]
fn every_row_has_every_field_and_no_key_comes_twice() {
    for list in [time_wait::sheet as List, ports::sheet] {
        let sheet = list(&sample_with_ports());
        let mut keys: Vec<_> = sheet.heads.iter().map(|head| head.key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), sheet.heads.len());
        assert!(!sheet.rows.is_empty() && !sheet.facts.is_empty());
        assert!(sheet.rows.iter().all(|row| row.cells.len() == keys.len()));
    }
}

#[test]
fn time_wait_of_one_program_is_one_row_for_each_destination() {
    let counts = column(time_wait::sheet, &sample_with_ports(), "time_wait");
    assert_eq!(counts, [Cell::Count(14_000), Cell::Count(400), Cell::Count(2)]);
}

#[test]
fn a_row_past_the_wall_alarms() {
    let sheet = ports::sheet(&sample_with_ports());
    assert!(sheet.rows[0].alarm && !sheet.rows[1].alarm);
}

#[test]
fn before_the_first_reading_there_is_nothing_and_that_is_said() {
    let snapshot = Snapshot { time_wait: None, ports: None, ..sample_with_ports() };
    for list in [time_wait::sheet as List, ports::sheet] {
        let sheet = list(&snapshot);
        assert!(sheet.rows.is_empty() && sheet.facts[0].contains("not read"), "{:?}", sheet.facts);
    }
}

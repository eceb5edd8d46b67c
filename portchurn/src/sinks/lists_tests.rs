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
fn what_a_filter_leaves_out_is_a_sum_and_no_row() {
    let mut snapshot = sample_with_ports();
    let time_wait = snapshot.time_wait.as_mut().unwrap();
    let mut others = time_wait.owners.last().unwrap().clone();
    (others.ownership, others.count) = ("filtered", 90);
    time_wait.owners.push(others);
    time_wait.unowned_by.extend([("filtered", 90), ("not_followed", 7)]);
    (time_wait.unowned, time_wait.total) = (97, time_wait.total + 97);
    let rows = time_wait::sheet(&sample_with_ports()).rows;
    let sheet = time_wait::sheet(&snapshot);
    assert_eq!(sheet.rows.len(), rows.len());
    let fact = &sheet.facts[0];
    assert!(fact.contains("90 left out by a filter, 7 not known (not_followed 7)"), "{fact}");
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

//! What matches a row of a table, and what does not.

use super::{check_rows, filter, worker};
use crate::filter::{FIELDS, Filter};
use crate::model::row::Row;
use crate::model::snapshot::Program;

#[test]
fn the_documented_examples_work() {
    check_rows(&[
        ("dport=3306 life<10ms", true),
        ("dest in 10.0.0.0/8 and !comm=nginx", true),
        ("error=EADDRNOTAVAIL", true),
        ("closer=local", true),
    ]);
    FIELDS.iter().for_each(|info| assert!(Filter::parse(info.example).is_ok(), "{}", info.example));
}

#[test]
fn texts_are_compared_whole_and_by_glob() {
    check_rows(&[
        ("comm=python3", true),
        ("comm=worker.py", true),
        ("comm=\"python3 worker.py\"", true),
        ("program=python", false),
        ("comm=py*", true),
        ("comm=PY*", false),
        ("comm='py*'", false),
        ("comm=python?", true),
        ("comm!=python3", false),
        ("comm!=nginx", true),
        ("comm=nginx,python3", true),
        ("comm in (nginx , python3)", true),
        ("comm!=nginx,haproxy", true),
        ("exe=/usr/bin/*", true),
        ("exe=python3.11", true),
        ("exe=python3", false),
        ("argv=--all", true),
        ("argv='a b'", true),
        ("argv=*worker.py?--all*", true),
        ("unit=sync@7", true),
        ("unit=sync@*.service", true),
        ("parent=cron", true),
        ("container=4d5b0e8a0c8f", true),
        ("container=4d5b0e8a", false),
        ("container=4d5b*", true),
    ]);
}

#[test]
fn regular_expressions_are_not_anchored() {
    check_rows(&[
        ("comm~worker", true),
        ("comm~^worker", true),
        ("comm~^py(thon)?3$", true),
        ("(comm~^py(thon)?3$)", true),
        ("comm!~ruby", true),
        (r#"comm~"\.py$""#, true),
        (r"exe~3\.\d+$", true),
        ("dest~^10[.]", true),
        ("dest~:443$", true),
        ("argv~--all.*b", true),
        ("error~^E", true),
        (r"comm~\)", false),
    ]);
}

#[test]
fn destinations_are_compared_as_addresses() {
    check_rows(&[
        ("dest=10.0.0.2", true),
        ("dest=10.0.0.3", false),
        ("dest=10.0.0.2:3306", true),
        ("dest=10.0.0.2:3307", false),
        ("dest=10.0.0.0/30", true),
        ("dest=10.0.*", true),
        ("dest=*:3306", true),
        ("dest=::ffff:10.0.0.2", true),
        ("dest=2001:db8::7", true),
        ("dest=[2001:db8::7]:443", true),
        ("dest in 2001:db8::/32", true),
        ("dest in 192.168.0.0/16,172.16.0.0/12", false),
        ("dest in (192.168.0.0/16, 10.0.0.0/8)", true),
        ("dest=:8080", true),
        ("dport=3306", true),
        ("dport in 3300-3310", true),
        ("dport in 80,443", true),
        ("dport>4000", false),
        ("lport=8080", true),
        ("lport=3306", false),
        ("role=accept", true),
        ("role=CONNECT", true),
        ("netns=4026531840", true),
    ]);
}

#[test]
fn numbers_and_durations_carry_units() {
    check_rows(&[
        ("life<10ms", true),
        ("dport=3306 life>=1200us", true),
        ("dport=3306 life>1200us", false),
        ("life<1.2ms", false),
        ("life<=1.2ms", true),
        ("life=1m", true),
        ("life>50s life<2m", true),
        ("connect>0", true),
        ("connect=300µs", true),
        ("opens>800", true),
        ("opens>0.8k", true),
        ("opens<1Ki", true),
        ("closes>=800", true),
        ("failed=4", true),
        ("open>10", true),
        ("open=10-12", true),
        ("pid=1", false),
    ]);
}

#[test]
fn who_closed_is_who_mostly_did() {
    check_rows(&[
        ("closer=local dport=3306", true),
        ("closer=remote dport=3306", false),
        ("closer=remote dport=443", true),
        ("closer=both", true),
        ("closer=simultaneous", true),
        ("closer=exit", false),
        ("closer=reset", false),
    ]);
}

#[test]
fn only_errors_that_happened_count() {
    check_rows(&[
        ("error=eaddrnotavail", true),
        ("error=ECONNREFUSED", false),
        ("error=*", true),
        ("error=E*AVAIL", true),
        ("error=ETIMEDOUT,EADDRNOTAVAIL", true),
    ]);
}

#[test]
fn one_destination_must_make_the_whole_true() {
    check_rows(&[
        ("dport=443 life<10ms", false),
        ("dport=3306 dport=443", false),
        ("dport=3306 or dport=9", true),
        ("!dport=3306", true),
        ("!dport=3306 role=connect life<10ms", false),
    ]);
}

#[test]
fn and_binds_tighter_than_or() {
    check_rows(&[
        ("comm=x and comm=y or comm=python3", true),
        ("comm=python3 or comm=x and comm=y", true),
        ("comm=python3 or comm=x comm=y", true),
        ("(comm=python3 or comm=x) comm=y", false),
        ("comm=python3 AND NOT comm=x", true),
        ("not not comm=python3", true),
        ("!(comm=python3 or comm=x)", false),
        ("! comm=x", true),
        ("comm = python3", true),
        ("  ", true),
        ("", true),
    ]);
}

#[test]
fn a_word_is_looked_for_where_people_look() {
    check_rows(&[
        ("WORKER", true),
        ("python3.11", true),
        ("10.0.0.2:33", true),
        ("db8::7", true),
        ("py*work", true),
        ("\"3 w\"", true),
        ("'py*work'", false),
        ("cron", false),
        ("nginx", false),
        ("!nginx", true),
        ("worker 3306", true),
        ("worker nginx", false),
        ("worker or nginx", true),
        ("android", false),
        ("\"and\"", false),
    ]);
}

#[test]
fn what_is_not_known_equals_nothing() {
    let program = Program { unit: None, exe: None, destinations: Vec::new(), ..worker() };
    let row = Row::of_program(&program);
    for (text, expected) in [
        ("unit=x", false),
        ("unit!=x", true),
        ("unit=*", false),
        ("exe~.", false),
        ("life<10s", false),
        ("!life<10s", true),
        ("dest=0.0.0.0/0", false),
        ("comm=python3", true),
    ] {
        assert_eq!(filter(text).matches(&row), expected, "{text}");
    }
}

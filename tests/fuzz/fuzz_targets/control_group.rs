#![no_main]
//! Control groups: what is said of a process stands in the path, and who names what lies below its
//! group changes nothing of it. A `#` stands for the id of a container.
use libfuzzer_sys::fuzz_target;
use sundew_attestation::kinds::process::control_group::{
    ControlGroup, can_pin, is_container_id, path_of,
};

fuzz_target!(|data: &str| {
    let (text, below) = data.split_once('\0').unwrap_or((data, "agent.service"));
    let text = text.replace('#', &"4f".repeat(32));
    let below = below.replace('#', &"b1".repeat(32));
    let Some(path) = path_of(&text) else { return };
    let said = ControlGroup::of(path);
    if let Some(id) = said.container_id {
        assert!(is_container_id(id) && path.contains(id));
    }
    if let Some(unit) = said.systemd_unit {
        assert!(can_pin(unit) || unit.starts_with("session-") || unit.starts_with('_'));
        let mut names = path.split('/');
        assert!(names.any(|name| name.strip_prefix('_').unwrap_or(name) == unit));
    }
    // Nobody can name a group `..`: then nothing is said.
    let path = format!("{path}/{below}");
    let inner = ControlGroup::of(&path);
    for (inner, said) in [
        (inner.container_id, said.container_id),
        (inner.systemd_unit, said.systemd_unit),
    ] {
        assert!(inner.is_none() || said.is_none() || inner == said);
    }
});

use super::*;
use sundew_rebuilt::dice::Dice;
use sundew_rebuilt::event_log::hostile::{Event, Machine, edit, variable};
use sundew_rebuilt::event_log::{ACTION, Bank, DRIVER_CONFIG, Log, SEPARATOR};

/// Returns the log of a cloud's virtual machine without secure boot, and the PCRs that are quoted.
fn cloud() -> (Vec<u8>, BTreeMap<usize, Vec<u8>>) {
    let log = Log::of_cloud(false);
    let mut quoted = log.registers(Bank::Sha256);
    quoted.retain(|pcr, _| [0, 4, 7, 9, 14].contains(pcr));
    (log.bytes(), quoted)
}

#[test]
fn e1_logs_of_clouds_and_computers_tell_whether_secure_boot_was_on() {
    for secure_boot in [false, true] {
        for log in [Log::of_cloud(secure_boot), Log::of_computer(secure_boot)] {
            let quoted = log.registers(Bank::Sha256);
            let measured = replay(&log.bytes(), Hash::Sha256, &quoted);
            let measured = measured.unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(measured.secure_boot, Some(secure_boot));
            assert_eq!(measured.digests.len(), quoted.len());
        }
    }
}

#[test]
fn t29_a_log_with_an_entry_more_or_less_or_changed_is_refused_and_none_panics() {
    let (log, quoted) = cloud();
    let genuine = replay(&log, Hash::Sha256, &quoted)
        .map(|measured| measured.digests)
        .unwrap_or_default();
    // A log may keep silent about a PCR; what it says of a PCR is all or nothing.
    let is_genuine = |measured: &Measured| {
        measured
            .digests
            .iter()
            .all(|(pcr, digests)| genuine.get(pcr) == Some(digests))
    };
    for length in 0..log.len() {
        // Events of PCRs that are not quoted may stand at the end, and may be left out.
        if let Ok(measured) = replay(log.get(..length).unwrap_or_default(), Hash::Sha256, &quoted) {
            assert!(is_genuine(&measured), "cut at {length}");
        }
    }
    let mut variant = log.clone();
    for at in 0..variant.len() {
        for bit in [0, 3, 7] {
            if let Some(byte) = variant.get_mut(at) {
                *byte ^= 1 << bit;
            }
            // What is not covered: content and types of events, the other banks, events of PCRs
            // that are not quoted. Digests are.
            if let Ok(measured) = replay(&variant, Hash::Sha256, &quoted) {
                assert!(is_genuine(&measured), "byte {at}, bit {bit}");
                assert_ne!(measured.secure_boot, Some(true), "byte {at}, bit {bit}");
            }
            if let Some(byte) = variant.get_mut(at) {
                *byte ^= 1 << bit;
            }
        }
    }
    let mut twice = log.clone();
    twice.extend_from_within(log.len().saturating_sub(200)..);
    assert!(replay(&twice, Hash::Sha256, &quoted).is_err());
}

fn secure_boot_of(machine: &Machine) -> Result<Option<bool>, TpmError> {
    replay(&machine.bytes(), Hash::Sha256, &machine.quoted()).map(|measured| measured.secure_boot)
}

/// The forgery that was seen: the genuine event is bent, and another one is measured after boot.
#[test]
fn e1_a_hosts_root_cannot_forge_secure_boot_after_the_boot() {
    let mut machine = Machine::booted(false);
    assert_eq!(secure_boot_of(&machine).ok(), Some(Some(false)));
    for event in &mut machine.log {
        if event.content == variable("SecureBoot", &[0]) {
            event.content = b"anything".to_vec();
        }
    }
    machine.extend(Event::measured(
        7,
        DRIVER_CONFIG,
        &variable("SecureBoot", &[1]),
    ));
    assert_eq!(secure_boot_of(&machine).ok(), Some(None));
}

#[test]
fn e1_no_edit_of_a_log_and_nothing_measured_after_boot_changes_secure_boot() {
    let mut dice = Dice::new(0x5eed_0000_0000_00e1);
    let (mut replayed, mut claimed) = (0, 0);
    for round in 0..20_000 {
        let genuine = round % 2 == 0;
        let mut machine = Machine::booted(genuine);
        for _ in 0..=dice.roll(6) {
            edit(&mut machine, &mut dice);
        }
        if let Ok(state) = secure_boot_of(&machine) {
            replayed += 1;
            claimed += usize::from(state.is_some());
            assert!(
                state.is_none() || state == Some(genuine),
                "round {round}: {machine:?}"
            );
        }
    }
    // Refusing everything would pass, too.
    assert!(
        replayed > 4000 && claimed > 1000,
        "{replayed} replayed, {claimed} with a claim"
    );
}

/// The same on a log as long as a real machine's.
#[test]
fn e1_no_edit_of_a_long_log_changes_secure_boot() {
    let (log, _) = cloud();
    let mut events = Events::new(Reader(&log), Hash::Sha256).unwrap();
    let mut machine = Machine::default();
    while let Some(event) = events.next_event().unwrap() {
        let event = Event {
            pcr: u32::try_from(event.pcr).unwrap(),
            kind: event.kind,
            digest: event.digest.to_vec(),
            content: event.content.to_vec(),
        };
        match event.kind {
            NO_ACTION => machine.log.push(event),
            _ => machine.extend(event),
        }
    }
    assert_eq!(secure_boot_of(&machine).unwrap(), Some(false));
    let mut dice = Dice::new(0x5eed_0000_0000_00e2);
    let mut claimed = 0;
    for round in 0..2_000 {
        let mut edited = machine.clone();
        for _ in 0..=dice.roll(4) {
            edit(&mut edited, &mut dice);
        }
        if let Ok(state) = secure_boot_of(&edited) {
            claimed += usize::from(state.is_some());
            assert_ne!(state, Some(true), "round {round}");
        }
    }
    assert!(claimed > 200, "{claimed} with a claim");
}

/// What the firmware itself did not measure as the profile says proves nothing.
#[test]
fn e1_only_firmware_that_measures_by_the_profile_proves_secure_boot() {
    let on = Event::measured(7, DRIVER_CONFIG, &variable("SecureBoot", &[1]));
    let end = Event::measured(7, SEPARATOR, &[0; 4]);
    let state = |events: &[&Event]| {
        let mut machine = Machine::default();
        for event in events {
            machine.extend((*event).clone());
        }
        secure_boot_of(&machine).unwrap_or_else(|e| panic!("{e}"))
    };
    let other_end = Event::measured(7, SEPARATOR, &[0xff; 4]);
    assert_eq!(state(&[&on, &end]), Some(true));
    assert_eq!(state(&[&on, &other_end]), Some(true));
    let misfit = Event {
        content: b"an image".to_vec(),
        ..Event::measured(7, ACTION, b"the digest of another")
    };
    let error = Event::measured(7, SEPARATOR, &[1, 0, 0, 0]);
    let odd = Event::measured(7, DRIVER_CONFIG, &variable("SecureBoot", &[2]));
    for (what, events) in [
        ("no separator", &[&on][..]),
        ("an error in its place", &[&on, &error]),
        ("after the separator", &[&end, &on]),
        ("after another separator", &[&other_end, &on, &end]),
        ("twice", &[&on, &on, &end]),
        ("with another value", &[&on, &odd, &end]),
        ("beside an event that does not fit", &[&on, &misfit, &end]),
        (
            "in debug mode",
            &[&on, &Event::measured(7, ACTION, b"UEFI Debug Mode"), &end],
        ),
    ] {
        assert_eq!(state(events), None, "{what}");
    }
    // The type of an event is the claimant's word, so it changes nothing.
    let relabelled = Event {
        kind: ACTION,
        ..on.clone()
    };
    assert_eq!(state(&[&relabelled, &end]), Some(true));
}

#[test]
fn e1_the_start_up_locality_is_taken_before_anything_was_measured_only() {
    let locality = |machine: &Machine, at: usize| {
        let mut other = machine.clone();
        let mut content = STARTUP_LOCALITY.to_vec();
        content.push(3);
        let event = Event::measured(0, NO_ACTION, &content);
        other.log.insert(at, event);
        replay(&other.bytes(), Hash::Sha256, &machine.quoted()).is_ok()
    };
    let machine = Machine::booted(true);
    assert!(!locality(&machine, 0), "the TPM started at locality 0");
    assert!(locality(&machine, 1), "PCR 0 is not at its initial value");
}

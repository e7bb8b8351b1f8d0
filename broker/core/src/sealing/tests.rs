use super::*;

#[test]
fn ac_63_a_sealed_value_opens_only_under_its_own_name() {
    let ring = Keyring::generate().unwrap();
    let sealed = ring.seal("a", b"value").unwrap();
    assert_eq!(ring.open("a", &sealed).unwrap().expose(), b"value");
    assert_eq!(ring.open("b", &sealed).err(), Some(SealError::Opening));
}

#[test]
fn rotation_keeps_old_values_readable_and_old_keyrings_do_not_read_new_ones() {
    let root = RootKey::new(&[7; 32]).unwrap();
    let old = Keyring::generate().unwrap();
    let sealed = old.seal("a", b"value").unwrap();
    let new = Keyring::unwrap(&root, &old.rotated("r").unwrap().wrap(&root).unwrap()).unwrap();
    assert_eq!((old.active_key_id(), new.active_key_id()), (1, 2));
    assert_eq!(new.open("a", &sealed).unwrap().expose(), b"value");
    assert_eq!(
        old.open("a", &new.seal("a", b"x").unwrap()).err(),
        Some(SealError::UnknownKey(2))
    );
    let other = RootKey::new(&[8; 32]).unwrap();
    assert!(Keyring::unwrap(&other, &new.wrap(&root).unwrap()).is_err());
}

#[test]
fn an_accepted_key_opens_what_it_made_and_makes_nothing() {
    let key = |byte| RootKey::new(&[byte; 32]).unwrap();
    let (former, next) = (key(7), key(8));
    let both = key(8).accepting([key(7)]).unwrap();
    let (place, names): (&[&[u8]], Vec<_>) = (&[b"task", b"a"], both.names().collect());
    assert_eq!(names, [next.active(), former.active()]);
    let tagged = former.tag(place, b"x".to_vec());
    let by_former = Ok((&b"x"[..], former.active()));
    assert_eq!(both.untag_by(place, &tagged), by_former);
    assert!(next.untag(place, &tagged).is_err(), "it is not accepted");
    let made = both.tag(place, b"x".to_vec());
    assert_eq!(made, next.tag(place, b"x".to_vec()));
    // What belongs to a task is under the key of the task.
    assert_eq!(
        both.tag_under(former.active(), place, b"x".to_vec()),
        tagged
    );
    let derived = both.derive_each(place);
    assert_eq!(derived, [next.derive(place), former.derive(place)]);
    assert_eq!(both.derive_under(former.active(), place), derived[1]);
    let sealed = former.wrap("keyring", b"k").unwrap();
    let (value, name) = both.unwrap_by("keyring", &sealed).unwrap();
    assert_eq!((value.expose(), name), (&b"k"[..], former.active()));
    assert!(next.unwrap("keyring", &sealed).is_err());
    assert!(
        next.unwrap("keyring", &both.wrap("keyring", b"k").unwrap())
            .is_ok()
    );
}

#[test]
fn a_root_key_is_accepted_once_and_three_beside_the_active_one() {
    let key = |byte| RootKey::new(&[byte; 32]).unwrap();
    for others in [vec![7], vec![8, 8], vec![1, 2, 3, 4]] {
        let accepted = key(7).accepting(others.into_iter().map(key));
        assert_eq!(accepted.err(), Some(SealError::RootKeys));
    }
    assert!(key(7).accepting([1, 2, 3].map(key)).is_ok());
    assert_eq!(key(7).active().to_string().len(), 16);
}

#[test]
fn t71_every_flipped_bit_of_a_record_and_every_other_place_is_noticed() {
    let root = RootKey::new(&[7; 32]).unwrap();
    let tagged = root.tag(&[b"token", b"a:b", b"c"], b"{\"scope\":1}".to_vec());
    assert_eq!(
        root.untag(&[b"token", b"a:b", b"c"], &tagged),
        Ok(&b"{\"scope\":1}"[..])
    );
    assert!(
        root.untag(&[b"token", b"a", b"b:c"], &tagged).is_err()
            && root.untag(&[b"token", b"a:b"], &tagged).is_err()
    );
    for bit in 0..tagged.len() * 8 {
        let mut edited = tagged.clone();
        edited[bit / 8] ^= 1 << (bit % 8);
        assert!(root.untag(&[b"token", b"a:b", b"c"], &edited).is_err());
    }
    for length in 0..tagged.len() {
        assert!(
            root.untag(&[b"token", b"a:b", b"c"], &tagged[..length])
                .is_err()
        );
    }
}

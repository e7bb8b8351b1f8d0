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

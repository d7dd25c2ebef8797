use proptest::prelude::*;

use super::*;

fn secret(kind: SlotKind, bytes: &[u8]) -> Secret {
    Secret { kind, bytes: Zeroizing::new(bytes.to_vec()), from: "a test".to_owned() }
}

fn key_file() -> Secret {
    secret(SlotKind::KeyFile, &[7; 32])
}

fn now() -> Timestamp {
    "2026-11-21T06:41:58.123456Z".parse().expect("a time")
}

async fn created(secrets: Vec<Secret>) -> (OpenKeys, RecoveryKey) {
    OpenKeys::create(secrets, now()).await.expect("keys")
}

fn written(keys: &OpenKeys, generation: u32) -> bytes::Bytes {
    keys.encode(generation).unwrap_or_else(|_| panic!("cannot be written"))
}

fn parsed(root: RootId, bytes: &[u8]) -> Result<KeysFile, RepoError> {
    KeysFile::parse("keys/x.json".to_owned(), (1, root), bytes)
}

#[tokio::test]
async fn every_kind_of_secret_opens_its_slot_and_no_other() {
    let secrets = || {
        vec![key_file(), secret(SlotKind::Passphrase, b"correct horse"), secret(SlotKind::Command, b"0123456789abcdef")]
    };
    let (keys, recovery) = created(secrets()).await;
    let file = parsed(keys.root(), &written(&keys, 1)).expect("a file");
    for secret in secrets().into_iter().chain([Secret::recovery(&recovery)]) {
        let opened = file.open_with(secret).await.expect("opens");
        assert_eq!(opened.keyring().active().id(), keys.keyring().active().id());
        assert_eq!(opened.keyring().active().secret(), keys.keyring().active().secret());
    }
    for wrong in [
        secret(SlotKind::KeyFile, &[8; 32]),
        secret(SlotKind::Passphrase, b"incorrect horse"),
        secret(SlotKind::Recovery, &[7; 32]),
    ] {
        let error = file.open(&wrong).expect_err("no slot of its own");
        assert!(matches!(error, KeyError::WrongSecret { .. }), "{error}");
        assert_eq!(error.class(), walward_base::ErrorClass::Denied);
    }
}

#[tokio::test]
async fn a_rotated_ring_keeps_the_old_key_and_the_slots() {
    let (mut keys, _) = created(vec![key_file()]).await;
    let old = *keys.keyring().active().id();
    keys.rotate(now());
    let opened = parsed(keys.root(), &written(&keys, 1)).expect("a file").open(&key_file()).expect("opens");
    assert_ne!(opened.keyring().active().id(), &old);
    assert!(opened.keyring().find(&old).is_some());
    assert_eq!(opened.keyring().iter().count(), 2);
}

#[tokio::test]
async fn slots_come_and_go_but_the_last_stays() {
    let (mut keys, _) = created(vec![key_file()]).await;
    let added = keys.add_slot(secret(SlotKind::Command, b"0123456789abcdef"), now()).await.expect("added");
    assert_eq!(added, 3);
    keys.remove_slot(1).expect("removed");
    keys.remove_slot(2).expect("removed");
    assert!(matches!(keys.remove_slot(9), Err(KeyError::NoSuchSlot(9))));
    assert!(matches!(keys.remove_slot(3), Err(KeyError::LastSlot(3))));
    let file = parsed(keys.root(), &written(&keys, 1)).expect("a file");
    assert!(file.open(&key_file()).is_err());
    assert!(file.open(&secret(SlotKind::Command, b"0123456789abcdef")).is_ok());
}

#[tokio::test]
async fn a_slot_taken_away_or_an_older_generation_is_noticed() {
    let (mut keys, _) = created(vec![key_file()]).await;
    let bytes = written(&keys, 1);
    let content = parsed(keys.root(), &bytes).expect("a file").checked.value;
    let fewer = Content { slots: content.slots[..1].to_vec(), ..content.clone() };
    let forged = checked_json::encode(&fewer, Some(&|_| [0; 32])).expect("JSON");
    let error = parsed(keys.root(), &forged).expect("well-formed").open(&key_file()).expect_err("forged");
    assert!(matches!(error, KeyError::Tampered { .. }), "{error}");
    let unsealed = checked_json::encode(&content, None).expect("JSON");
    let error = parsed(keys.root(), &unsealed).expect_err("without its seal");
    assert_eq!(error.class(), walward_base::ErrorClass::Corrupt);
    keys.rotate(now());
    assert!(KeysFile::parse(String::new(), (2, keys.root()), &bytes).is_err());
}

#[tokio::test]
async fn a_forged_argon2_cost_is_refused_before_it_is_paid() {
    let (keys, _) = created(vec![secret(SlotKind::Passphrase, b"correct horse")]).await;
    let text = String::from_utf8(written(&keys, 1).to_vec()).expect("JSON");
    let content: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let mut content = content["content"].clone();
    content["slots"][0]["argon2"]["memory_kib"] = 4_000_000_000u32.into();
    let forged = checked_json::encode(&content, Some(&|_| [0; 32])).expect("JSON");
    let error =
        parsed(keys.root(), &forged).expect("well-formed").open(&secret(SlotKind::Passphrase, b"correct horse"));
    assert!(matches!(error, Err(KeyError::Derivation(_))));
}

#[tokio::test]
async fn a_flipped_bit_is_noticed_or_changes_nothing() {
    let (keys, _) = created(vec![key_file()]).await;
    let bytes = written(&keys, 1);
    for at in 0..bytes.len() {
        for bit in [0, 5] {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 1 << bit;
            if let Ok(opened) =
                parsed(keys.root(), &flipped).map_err(drop).and_then(|file| file.open(&key_file()).map_err(drop))
            {
                assert_eq!(opened.keyring().active().secret(), keys.keyring().active().secret());
                assert_eq!(opened.slots, keys.slots);
            }
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        let _ = parsed(RootId::for_tests(0), &bytes);
        let _ = parse_ring(&bytes);
    }
}

//! Keys and boxes: lengths, failure while being made, comparison, what they show of themselves.

use vmseal_secret::{Error, MAX_LEN, Pod, SecretBox, SecretKey};

fn patterned(len: usize, seed: u8) -> SecretKey {
    SecretKey::try_init::<Error>(len, |bytes| {
        bytes.iter_mut().zip(0u8..=255).for_each(|(b, i)| *b = seed ^ i);
        Ok(())
    })
    .expect("a key")
}

#[test]
fn refuses_lengths_that_are_none() {
    for length in [0, MAX_LEN + 1, usize::MAX] {
        let expected = Error::Length { length, maximum: MAX_LEN };
        assert_eq!(SecretKey::generate(length).expect_err("refused"), expected);
        let filled = SecretKey::try_init::<Error>(length, |_| panic!("fill must not run"));
        assert_eq!(filled.expect_err("refused"), expected);
        assert_eq!(expected.code(), "VMSEAL_KEY_LENGTH");
    }
}

#[test]
fn generates_every_length_differently() {
    for len in [1usize, 16, 32, 63, 64, 65, 1000, MAX_LEN] {
        let (one, two) = (SecretKey::generate(len).expect("a key"), SecretKey::generate(len).expect("a key"));
        assert_eq!(one.len(), len);
        assert_eq!(one.expose(<[u8]>::len), len);
        assert!(len < 16 || !one.ct_eq(&two), "{len} equal random bytes twice");
        assert!(len < 64 || one.expose(|b| b.iter().any(|x| *x != b[0])), "{len} bytes are not random");
    }
}

#[test]
fn compares_contents_and_lengths() {
    let key = patterned(64, 7);
    assert!(key.ct_eq(&key));
    assert!(key.ct_eq(&patterned(64, 7)));
    assert!(!key.ct_eq(&patterned(64, 8)));
    assert!(!key.ct_eq(&patterned(63, 7)));
    for flipped in 0..64 {
        let other = SecretKey::try_init::<Error>(64, |bytes| {
            key.expose(|source| bytes.copy_from_slice(source));
            bytes[flipped] ^= 1;
            Ok(())
        });
        assert!(!key.ct_eq(&other.expect("a key")), "byte {flipped}");
    }
}

#[test]
fn debug_shows_lengths_only() {
    let key = patterned(32, 0x41);
    assert_eq!(format!("{key:?} {key:#?}"), "SecretKey(32 bytes) SecretKey(32 bytes)");
    let boxed = SecretBox::<[u8; 48]>::try_init::<Error>(|bytes| {
        bytes.fill(0x41);
        Ok(())
    });
    assert_eq!(format!("{:?}", boxed.expect("a box")), "SecretBox(48 bytes)");
}

#[derive(Debug, PartialEq)]
enum Failure {
    Mine,
    Memory(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Memory(error)
    }
}

#[test]
fn passes_the_error_of_the_filler_on() {
    assert_eq!(SecretKey::try_init(16, |_| Err(Failure::Mine)).expect_err("refused"), Failure::Mine);
    assert_eq!(SecretBox::<[u32; 4]>::try_init(|_| Err(Failure::Mine)).expect_err("refused"), Failure::Mine);
    let length = SecretKey::try_init::<Failure>(0, |_| Ok(())).expect_err("refused");
    assert!(matches!(length, Failure::Memory(Error::Length { .. })));
}

#[test]
fn many_are_made_in_their_own_places() {
    for len in [1, 64, 65, 4096] {
        let keys = SecretKey::try_init_many::<Error>(len, 33, |index, bytes| {
            assert!(bytes.len() == len && bytes.iter().all(|byte| *byte == 0), "handed zeros");
            bytes.fill(index as u8 + 1);
            Ok(())
        })
        .expect("made");
        assert_eq!(keys.len(), 33);
        for (index, key) in keys.iter().enumerate() {
            assert!(
                key.len() == len && key.expose(|bytes| bytes.iter().all(|byte| *byte == index as u8 + 1))
            );
        }
    }
    assert!(SecretKey::try_init_many::<Error>(64, 0, |_, _| unreachable!()).expect("none").is_empty());
    for len in [0, 4097] {
        let refused = SecretKey::try_init_many::<Error>(len, 2, |_, _| Ok(())).expect_err("refused");
        assert!(matches!(refused, Error::Length { .. }));
    }
    let failed =
        SecretKey::try_init_many(64, 5, |index, _| if index == 3 { Err(Failure::Mine) } else { Ok(()) });
    assert_eq!(failed.expect_err("refused"), Failure::Mine);
}

#[repr(C, align(64))]
struct Schedule {
    rounds: [[u64; 2]; 15],
    tweak: [u8; 16],
}

// SAFETY: integers only, every bit pattern is valid, no destructor.
unsafe impl Pod for Schedule {}

#[test]
fn boxes_are_made_in_place_from_zeros() {
    let mut seen = 0;
    let schedule = SecretBox::<Schedule>::try_init::<Error>(|s| {
        seen = (&raw const *s).addr();
        assert!(s.rounds.iter().flatten().all(|r| *r == 0) && s.tweak == [0; 16]);
        s.rounds[14] = [1, 2];
        s.tweak[15] = 9;
        Ok(())
    })
    .expect("a box");
    assert_eq!((&raw const *schedule.get()).addr(), seen, "a box moves nothing");
    assert_eq!(seen % 64, 0);
    assert_eq!(schedule.expose(|s| (s.rounds[14], s.tweak[15])), ([1, 2], 9));
}

#[test]
fn errors_have_codes_from_the_table_and_say_what_to_do() {
    let all = [
        (
            Error::LockLimit { requested: 4096, used: 65536, limit: 65536 },
            "VMSEAL_KEY_MEMORY_EXHAUSTED",
            "ulimit -l",
        ),
        (Error::Unavailable { operation: "mmap", errno: 12 }, "VMSEAL_KEY_MEMORY_UNAVAILABLE", "mmap failed"),
        (Error::Forked, "VMSEAL_KEY_MEMORY_UNAVAILABLE", "exec"),
        (Error::Setting, "VMSEAL_INVALID_ARGUMENT", "unset"),
        (Error::Length { length: 0, maximum: MAX_LEN }, "VMSEAL_KEY_LENGTH", "1 to 4096"),
        (Error::Random, "VMSEAL_RANDOM_UNAVAILABLE", "getrandom"),
        (Error::ShuttingDown, "VMSEAL_SHUTTING_DOWN", "start it again"),
    ];
    for (error, code, advice) in all {
        assert_eq!(error.code(), code);
        assert!(error.to_string().contains(advice), "{error}");
    }
}

//! NIST CAVP XTSGenAES256: data units of whole bytes (those of 140 and 250 bits have no meaning for a disk).

mod inputs;
mod vectors;

use std::collections::HashMap;

use inputs::{hex, key};

#[test]
fn tweak_as_128_bits() {
    let Some(text) = vectors::read("nist-cavp/XTSGenAES256.tweak-128hexstr.rsp") else { return };
    let checked = check_all(&text, |fields| hex(fields["i"]).try_into().expect("a tweak of 16 bytes"));
    assert_eq!(checked, 600);
}

#[test]
fn tweak_as_data_unit_number() {
    let Some(text) = vectors::read("nist-cavp/XTSGenAES256.dataunitseqno.rsp") else { return };
    let checked = check_all(&text, |fields| {
        let number: u64 = fields["DataUnitSeqNumber"].parse().expect("a decimal number");
        u128::from(number).to_le_bytes()
    });
    assert_eq!(checked, 600);
}

fn check_all(text: &str, tweak: impl Fn(&HashMap<&str, &str>) -> [u8; 16]) -> usize {
    let mut checked = 0;
    for record in text.replace("\r\n", "\n").split("\n\n").filter(|record| record.contains("COUNT = ")) {
        let fields: HashMap<&str, &str> = record.lines().filter_map(|line| line.split_once(" = ")).collect();
        let bits: usize = fields["DataUnitLen"].parse().expect("a decimal number");
        if !bits.is_multiple_of(8) {
            continue;
        }
        let name = format!("count {} of {bits} bits", fields["COUNT"]);
        vectors::check(
            &name,
            &key(&hex(fields["Key"])),
            tweak(&fields),
            &hex(fields["PT"]),
            &hex(fields["CT"]),
        );
        checked += 1;
    }
    checked
}

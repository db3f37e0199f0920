//! Measures conversion beside what it is compared with: `conversion FOLDER BYTES ROUNDS [GROUP ...]` prints JSON with the seconds of
//! every way in every round. Within a group the ways take turns and nobody is always first. `conversion peak FOLDER BYTES WAY`
//! converts one sparse disk and prints the most memory the process had.

mod groups;
mod peak;
mod programs;
mod stage;

use std::env;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use crate::groups::{GROUPS, Group};
use crate::stage::Stage;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["peak", folder, bytes, way] => {
            println!("{}", peak::measure(Path::new(folder), bytes.parse()?, way)?)
        }
        [folder, bytes, rounds, names @ ..] => {
            let stage = Stage::new(Path::new(folder), bytes.parse()?)?;
            let rounds: usize = rounds.parse()?;
            let wanted = GROUPS.iter().filter(|(name, _)| names.is_empty() || names.contains(name));
            let groups = wanted
                .map(|(name, make)| run(name, &make(&stage), rounds, &stage))
                .collect::<Outcome<Vec<Value>>>()?;
            println!(
                "{}",
                json!({ "bytes": stage.bytes, "fileSystem": stage.file_system()?, "groups": groups })
            );
        }
        _ => {
            return Err(
                "usage: conversion FOLDER BYTES ROUNDS [GROUP ...] | conversion peak FOLDER BYTES WAY".into(),
            );
        }
    }
    Ok(())
}

fn run(name: &str, group: &Group<'_>, rounds: usize, stage: &Stage) -> Outcome<Value> {
    let mut seconds = vec![Vec::new(); group.len()];
    for round in 0..rounds {
        for place in 0..group.len() {
            let index = (place + round) % group.len();
            let way = &group[index];
            (way.prepare)()?;
            // What others left to be written is not written on this one's time.
            rustix::fs::syncfs(stage.handle()?)?;
            (way.settle)()?;
            let begun = Instant::now();
            (way.run)()?;
            seconds[index].push(begun.elapsed().as_secs_f64());
        }
    }
    let ways =
        group.iter().zip(&seconds).map(|(way, seconds)| json!({ "name": way.name, "seconds": seconds }));
    Ok(json!({ "name": name, "ways": ways.collect::<Vec<_>>() }))
}

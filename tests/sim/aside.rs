//! What a person does who is told that a file has two contents: the other life leaves the archive, as `walward wal set-aside` moves it.

use std::path::Path;

use jiff::Timestamp;
use walward::archive::aside::{Away, Facts, KeptServer, Rest, plan};
use walward_base::describe;
use walward_pg::{Lineage, WalFileName};
use walward_repo::aside::{self, AsideId, Begun, FORMAT, Stage};
use walward_repo::{Repository, layout};

use crate::machine::Site;

const HOST: &str = "dba";

/// Moves the file `from`, and what follows it and the server in `data` has not, out of each of `sites`. A move that was cut goes first. `gone` gets what has left, and
/// where; after an error, what may have left.
pub async fn set_aside(
    sites: &[&Site],
    data: &Path,
    (lineage, from): (Lineage, WalFileName),
    gone: &mut Vec<(&'static str, WalFileName)>,
) -> Result<(), String> {
    let mut opened = Vec::new();
    for site in sites {
        opened.push((site.name, site.open().await.map_err(|error| told(&error))?));
    }
    let kept = KeptServer::read(data).map_err(|error| told(&error))?;
    let mut cut = Vec::new();
    for (name, repository) in &opened {
        let known = aside::all(repository).await.map_err(|error| told(&error))?.0;
        for aside in known.iter().filter(|aside| aside.stage == Stage::Cut) {
            let rest = Rest::read(repository, aside, kept.as_ref(), &mut Vec::new()).await;
            let rest = rest.map_err(|error| told(&error))?;
            if rest.begins_in_own {
                return Err(format!("{} in {name} begins with a file of the kept server's", aside.begun.id));
            }
            cut.push((*name, repository, Away::resume(repository, aside, rest).await.map_err(|error| told(&error))?));
        }
    }
    carry_out(cut, gone).await?;
    let id = AsideId::new(Timestamp::now());
    let mut new = Vec::new();
    for (name, repository) in &opened {
        let facts = Facts::read(repository, from, kept.as_ref()).await.map_err(|error| told(&error))?;
        let Some(plan) = facts.map(|facts| plan(&facts, from)).filter(|plan| !plan.is_empty()) else { continue };
        let begun = Begun {
            format: FORMAT,
            id: id.clone(),
            lineage,
            from,
            begun: Timestamp::now(),
            host: HOST.to_owned(),
            user: None,
            reason: String::new(),
            lists: 0,
            objects: 0,
            bytes: 0,
            backups: Vec::new(),
        };
        new.push((*name, repository, Away::begin(repository, begun, &plan).await.map_err(|error| told(&error))?));
    }
    carry_out(new, gone).await
}

/// Each step in all repositories before the next one in any.
async fn carry_out(
    mut moves: Vec<(&'static str, &Repository, Away<'_>)>,
    gone: &mut Vec<(&'static str, WalFileName)>,
) -> Result<(), String> {
    let mut leaving = Vec::new();
    for (site, repository, away) in &mut moves {
        away.copy(|_| {}).await.map_err(|error| told(&error))?;
        for (key, _) in aside::objects(repository, away.begun()).await.map_err(|error| told(&error))? {
            leaving.push((*site, key.file_name().parse::<WalFileName>().map_err(|error| error.to_string())?));
        }
    }
    let before = gone.len();
    gone.extend(leaving);
    for (.., away) in &mut moves {
        away.remove().await.map_err(|error| told(&error))?;
    }
    for (.., away) in &mut moves {
        away.finish(HOST).await.map_err(|error| told(&error))?;
    }
    let mut stays = Vec::new();
    for (site, file) in gone.iter().skip(before).copied() {
        let of_site = moves.iter().find(|(name, ..)| *name == site);
        let (_, repository, away) = of_site.expect("what leaves, leaves one of them");
        let there = repository.exists(&layout::wal_file(away.begun().lineage, file)).await;
        if there.map_err(|error| told(&error))? {
            stays.push((site, file));
        }
    }
    gone.retain(|left| !stays.contains(left));
    Ok(())
}

fn told(error: &(dyn std::error::Error + 'static)) -> String {
    describe(error)
}

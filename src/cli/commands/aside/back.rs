//! `wal restore-aside`: what was set aside comes back into the archive, where nothing has taken its names.

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{as_json, holder, known, sentence, tell_agent};
use crate::archive::aside::Back;
use crate::backup::with_lease;
use crate::cli::arguments::RestoreAsideArguments;
use crate::cli::ask::confirm;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::interrupt::cancelled_by_signals;
use crate::cli::meter::Meter;
use crate::cli::printer::Printer;
use crate::outcome::Exit;
use walward_base::sys;
use walward_repo::Repository;
use walward_repo::aside::{AsideId, Begun, Stage};
use walward_repo::lease::Work;

pub(in crate::cli) async fn run(
    context: &Context,
    arguments: &RestoreAsideArguments,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let cluster = context.cluster()?;
    let id: AsideId = arguments.id.parse().map_err(|error| Failure::new(Exit::Usage, error))?;
    let repositories = context.open_all(cluster).await?;
    let backs = read(&repositories, &id, printer).await?;
    let Some(first) = backs.first() else {
        let text = format!("nothing is set aside as {id}, or it was put back");
        return Err(Failure::new(Exit::NotFound, text).hint("`walward wal list-aside` shows what is"));
    };
    let from = first.begun().from;
    for back in &backs {
        // Said before anybody is asked, and decided again under the lease.
        back.judge().await?;
        printer.note(&sentence(back.begun()));
    }
    confirm(&context.global, printer, "put it back into the archive?")?;
    let cancel = CancellationToken::new();
    let work = async || put_back(&repositories, &id, printer).await;
    let holder = holder("restore-aside");
    let work = with_lease(&repositories, (Work::SetAside, &holder), &cancel, work);
    let done = cancelled_by_signals(cancel.clone(), work).await?;
    let exit = tell_agent(context, cluster, from, printer);
    let told = print(&repositories, &done, &cluster.name, printer).map(|()| exit);
    Ok(printer.done(&format!("{id} is back in the archive"), told))
}

async fn read<'a>(repositories: &'a [Repository], id: &AsideId, printer: &Printer) -> Result<Vec<Back<'a>>, Failure> {
    let mut backs = Vec::new();
    for (repository, asides) in known(repositories, printer).await? {
        if let Some(aside) = asides.iter().find(|aside| aside.begun.id == *id && aside.stage != Stage::Returned) {
            backs.push(Back::read(repository, aside).await?);
        }
    }
    Ok(backs)
}

async fn put_back(
    repositories: &[Repository],
    id: &AsideId,
    printer: &Printer,
) -> Result<Vec<(String, Begun)>, Failure> {
    let backs = read(repositories, id, printer).await?;
    for back in &backs {
        back.judge().await?;
    }
    let host = sys::host::name();
    let mut done = Vec::new();
    for back in &backs {
        let bytes = back.begun().bytes;
        let mut meter = (!printer.is_json()).then(|| Meter::new(printer, "wal-restore-aside"));
        let mut count = 0;
        let name = back.repository().name();
        let put = back.put_back(&host, |object_bytes| {
            count += object_bytes;
            if let Some(meter) = &mut meter {
                meter.show(count, bytes, &format!("putting back into {name}"), ());
            }
        });
        put.await?;
        meter.iter().for_each(Meter::finish);
        done.push((name.to_owned(), back.begun().clone()));
    }
    Ok(done)
}

fn print(
    repositories: &[Repository],
    done: &[(String, Begun)],
    cluster: &str,
    printer: &Printer,
) -> Result<(), Failure> {
    if printer.is_json() {
        let of = |name: &str| repositories.iter().find(|repository| repository.name() == name);
        let each = done.iter().filter_map(|(name, begun)| Some(as_json(of(name)?, begun, Stage::Returned)));
        let returned: Vec<_> = each.collect();
        return Ok(printer.json("wal-restore-aside", json!({ "cluster": cluster, "returned": returned }))?);
    }
    for (name, begun) in done {
        printer.line(&format!("back in repository \"{name}\": {}", sentence(begun)))?;
    }
    Ok(())
}

//! What a store can really do, tried rather than assumed: some accept `If-None-Match` and overwrite all the same.
//!
//! What is tried is the store as Walward uses it, with what [`super::create`] does where the store does not keep writers
//! apart; `conditional_create` is about the store alone.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::bucket::{self, BucketProperty};
use super::part_size::PartLimits;
use super::{Creates, ObjectKey, Payload, Property, Put, Store, StoreError, StoreOptions};
use walward_base::{ErrorClass, format_bytes};

/// How many writers race for one name.
const RACERS: u8 = 16;
/// More than the 1,000 names that a page of a listing holds.
const MANY: usize = 1_003;
/// So many objects are written or removed at once.
const AT_ONCE: usize = 16;
/// Two parts at the smallest part size, and a rest.
const LARGE_BYTES: usize = (11 << 20) + 1;
/// Leases and ages are compared with the store's clock.
const SKEW_MAX: SignedDuration = SignedDuration::from_secs(60);

/// What was tried at a store.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProbeReport {
    /// The store's URL without secrets.
    pub url: String,
    /// Whether every check held.
    pub ok: bool,
    /// Whether the store itself refuses to overwrite, even among writers at the same moment.
    pub conditional_create: bool,
    /// What it does with two writers of one name.
    pub creates: Creates,
    /// How large objects go; `None` for a store without parts.
    pub parts: Option<PartLimits>,
    /// Whether the bucket has Object Lock.
    pub object_lock: Property,
    /// Whether the bucket keeps old versions.
    pub versioning: Property,
    /// The store's clock minus this machine's, in milliseconds; `None` when no object could be written.
    pub clock_skew_milliseconds: Option<i64>,
    /// One after the other, in the order in which they ran.
    pub checks: Vec<ProbeCheck>,
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProbeCheck {
    /// Which: `write`, `conditional_create`, `create_only_once`, `create_race`, `read`, `range`, `list`, `clock`, `multipart`,
    /// `object_lock`, `versioning`, `delete`.
    pub name: &'static str,
    /// Whether it held.
    pub ok: bool,
    /// What was seen; on failure also what it means.
    pub detail: String,
    /// How long it took.
    pub milliseconds: u64,
}

/// A check that did not hold, in words.
struct Failed(String);

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self(format!("{error}: {}", error.source))
    }
}

impl From<super::KeyError> for Failed {
    fn from(error: super::KeyError) -> Self {
        Self(error.to_string())
    }
}

impl ProbeReport {
    async fn check(&mut self, name: &'static str, work: impl Future<Output = Result<String, Failed>>) -> bool {
        let began = Instant::now();
        let (ok, detail) = match work.await {
            Ok(detail) => (true, detail),
            Err(Failed(detail)) => (false, detail),
        };
        self.ok &= ok;
        self.checks.push(ProbeCheck { name, ok, detail, milliseconds: milliseconds(began.elapsed()) });
        ok
    }
}

impl ProbeReport {
    /// Something that is as it is.
    async fn ask(&mut self, name: &'static str, question: impl Future<Output = BucketProperty>) -> Property {
        let mut property = Property::Unknown;
        self.check(name, async {
            let found = question.await;
            property = found.property;
            Ok(found.words)
        })
        .await;
        property
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn ensure(holds: bool, otherwise: impl Into<String>) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(Failed(otherwise.into())) }
}

/// Tries `store`, which `options` lead to, with objects under `scratch`, a name that nobody else uses, and removes them.
///
/// Never fails as a whole: what does not work is in the report.
pub async fn probe(store: &Arc<dyn Store>, options: &StoreOptions, scratch: &ObjectKey) -> ProbeReport {
    let mut report = ProbeReport {
        url: store.url().to_owned(),
        ok: true,
        conditional_create: false,
        creates: Creates::Untried,
        parts: (!options.url.starts_with("file:")).then(|| PartLimits::of(&options.limits)),
        object_lock: Property::Unknown,
        versioning: Property::Unknown,
        clock_skew_milliseconds: None,
        checks: Vec::new(),
    };
    let content = Bytes::from_static(b"walward probes this store; this object can be removed");
    if report.check("write", write(store, scratch, &content)).await {
        report.creates = store.creates();
        let itself = report.check("conditional_create", std::future::ready(conditional_create(store.creates()))).await;
        let once = report.check("create_only_once", create_only_once(store, scratch, &content)).await;
        let race = report.check("create_race", create_race(store, scratch)).await;
        report.conditional_create = itself && once && race;
        report.check("read", read(store, scratch, &content)).await;
        report.check("range", range(store, scratch, &content)).await;
        report.check("list", list(store, scratch)).await;
        let mut skew = None;
        report.check("clock", clock(store, scratch, &mut skew)).await;
        report.clock_skew_milliseconds = skew;
        report.check("multipart", multipart(store, scratch, report.parts)).await;
        report.object_lock = report.ask("object_lock", bucket::object_lock(options)).await;
        report.versioning = report.ask("versioning", bucket::versioning(options)).await;
    }
    report.check("delete", clean_up(store, scratch)).await;
    report
}

fn conditional_create(creates: Creates) -> Result<String, Failed> {
    ensure(
        !creates.is_unsafe(),
        format!(
            "the store {}; Walward looks before it writes and reads back after, which does not keep two servers apart in every case: let only one server archive each timeline",
            creates.words()
        ),
    )?;
    Ok(format!("the store {}", creates.words()))
}

async fn write(store: &Arc<dyn Store>, scratch: &ObjectKey, content: &Bytes) -> Result<String, Failed> {
    let put = store.put_new(&scratch.join("object")?, content.clone().into()).await?;
    ensure(put == Put::Created, "the store says that a new object had been there before")?;
    Ok(format!("{} written", format_bytes(content.len() as u64)))
}

async fn read_whole(store: &Arc<dyn Store>, key: &ObjectKey) -> Result<Vec<u8>, StoreError> {
    let body = store.get(key).await?.body;
    body.try_fold(Vec::new(), |mut all, bytes| async move {
        all.extend_from_slice(&bytes);
        Ok(all)
    })
    .await
}

async fn read(store: &Arc<dyn Store>, scratch: &ObjectKey, content: &Bytes) -> Result<String, Failed> {
    let read = read_whole(store, &scratch.join("object")?).await?;
    ensure(read == *content, "other bytes came back than were written")?;
    Ok("the same bytes came back".to_owned())
}

async fn range(store: &Arc<dyn Store>, scratch: &ObjectKey, content: &Bytes) -> Result<String, Failed> {
    let key = scratch.join("object")?;
    let read = store.get_range(&key, 8..14).await?;
    ensure(content.get(8..14) == Some(&*read), "another part came back than was asked for")?;
    match store.get_range(&key, 0..content.len() as u64 + 1).await {
        Err(error) if error.class == ErrorClass::Corrupt => Ok("a part came back as asked for".to_owned()),
        Err(error) => Err(error.into()),
        Ok(_) => Err(Failed("the store answers for bytes that do not exist".to_owned())),
    }
}

async fn list(store: &Arc<dyn Store>, scratch: &ObjectKey) -> Result<String, Failed> {
    let listing = store.list(Some(scratch)).await?;
    let names: Vec<_> = listing.objects.iter().map(|object| object.key.file_name()).collect();
    ensure(names.contains(&"object"), "an object that was just written is not listed")?;
    match store.head(&scratch.join("absent")?).await {
        Err(error) if error.class == ErrorClass::NotFound => {}
        Err(error) => return Err(error.into()),
        Ok(_) => return Err(Failed("the store knows an object that was never written".to_owned())),
    }
    let many = many(scratch)?;
    let puts = many.iter().map(|key| async move { store.start_upload(key, 0).await?.finish().await });
    futures::stream::iter(puts).buffer_unordered(AT_ONCE).try_collect::<Vec<_>>().await?;
    let folder = scratch.join("many")?;
    let listed = store.list(Some(&folder)).await?.objects;
    ensure(
        listed.iter().map(|object| &object.key).eq(&many),
        format!("of {MANY} objects in a folder {} are listed", listed.len()),
    )?;
    Ok(format!("{MANY} objects in a folder are listed, each once"))
}

fn many(scratch: &ObjectKey) -> Result<Vec<ObjectKey>, super::KeyError> {
    (0..MANY).map(|number| scratch.join(&format!("many/{number:04}"))).collect()
}

async fn create_only_once(store: &Arc<dyn Store>, scratch: &ObjectKey, content: &Bytes) -> Result<String, Failed> {
    let key = scratch.join("object")?;
    let put = store.put_new(&key, Bytes::from_static(b"second").into()).await?;
    let left = read_whole(store, &key).await?;
    ensure(
        put == Put::Exists,
        "the store overwrites although it was told not to: two clusters could destroy each other's WAL",
    )?;
    ensure(left == *content, "the store said that it had not overwritten, and did")?;
    Ok("the second write was refused and the first is intact".to_owned())
}

async fn create_race(store: &Arc<dyn Store>, scratch: &ObjectKey) -> Result<String, Failed> {
    let key = scratch.join("race")?;
    let puts = (0..RACERS).map(|racer| {
        let key = &key;
        async move { (racer, store.put_new(key, Payload::from(vec![racer; 4_096])).await) }
    });
    let answers: Vec<_> = futures::stream::iter(puts).buffer_unordered(usize::from(RACERS)).collect().await;
    let mut winners = Vec::new();
    for (racer, answer) in answers {
        if answer? == Put::Created {
            winners.push(racer);
        }
    }
    let left = read_whole(store, &key).await?;
    match winners.as_slice() {
        [winner] if left.iter().all(|byte| byte == winner) => Ok(format!("one of {RACERS} writers at once won")),
        [_] => Err(Failed("one writer was told that it had won, and the bytes are another's".to_owned())),
        // A first answer that was lost and tried again finds its own object.
        [] => Err(Failed("no writer was told that it had won".to_owned())),
        many => Err(Failed(format!(
            "{} of {RACERS} writers at once were told that they had won: keep to one writer a cluster",
            many.len()
        ))),
    }
}

async fn clock(store: &Arc<dyn Store>, scratch: &ObjectKey, skew: &mut Option<i64>) -> Result<String, Failed> {
    let key = scratch.join("clock")?;
    let before = Timestamp::now();
    store.put_new(&key, Bytes::new().into()).await?;
    let after = Timestamp::now();
    let modified = store.head(&key).await?.modified;
    // Stores keep whole seconds: within the call, and a second before, there is no skew to see.
    let second = SignedDuration::from_secs(1);
    let early = modified.duration_since(before) + second;
    let late = modified.duration_since(after);
    let found = if early.is_negative() { early } else { late.max(SignedDuration::ZERO) };
    *skew = Some(i64::try_from(found.as_millis()).unwrap_or(i64::MAX));
    let seconds = found.as_secs_f64();
    ensure(
        found.abs() <= SKEW_MAX,
        format!("the store's clock and this machine's differ by {seconds:.0} s: set this machine's clock (NTP)"),
    )?;
    Ok(format!("the clocks agree within {:.0} s", seconds.abs().ceil().max(1.0)))
}

async fn multipart(store: &Arc<dyn Store>, scratch: &ObjectKey, limits: Option<PartLimits>) -> Result<String, Failed> {
    let key = scratch.join("multipart")?;
    let bytes: Bytes = (0..=250u8).cycle().take(LARGE_BYTES).collect();
    let mut upload = store.start_upload(&key, bytes.len() as u64).await?;
    upload.write(bytes.clone()).await?;
    upload.finish().await?;
    let read = read_whole(store, &key).await?;
    ensure(read == bytes, "an object that was sent in parts came back as something else")?;
    let sent = format_bytes(bytes.len() as u64);
    Ok(match limits {
        None => format!("{sent} written piece by piece came back the same"),
        Some(limits) => format!(
            "{sent} sent in parts came back the same; parts of {} take objects of up to {} ({} parts), larger ones get larger parts, up to {}",
            format_bytes(limits.part_bytes),
            format_bytes(limits.object_bytes_at_part_bytes),
            limits.parts_max,
            format_bytes(limits.object_bytes_max)
        ),
    })
}

async fn clean_up(store: &Arc<dyn Store>, scratch: &ObjectKey) -> Result<String, Failed> {
    let mut keys = many(scratch)?;
    for name in ["object", "race", "clock", "multipart"] {
        keys.push(scratch.join(name)?);
    }
    let deletes = keys.iter().map(|key| store.delete(key));
    futures::stream::iter(deletes).buffer_unordered(AT_ONCE).try_collect::<Vec<_>>().await?;
    let left = store.list(Some(scratch)).await?;
    ensure(
        left.objects.is_empty(),
        format!("{} objects are still listed after they were deleted, under {scratch}", left.objects.len()),
    )?;
    Ok("everything was removed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{Fault, Faulty, Plan};
    use crate::memory;

    #[tokio::test]
    async fn a_sound_store_passes_and_is_left_as_it_was() {
        let store = memory();
        let options = StoreOptions::new("memory:");
        let report = probe(&store, &options, &ObjectKey::new("lease/probe-1").unwrap()).await;
        assert!(report.ok && report.conditional_create, "{report:?}");
        assert_eq!((report.checks.len(), report.object_lock), (12, Property::Unknown));
        assert_eq!(store.list(None).await.unwrap(), crate::Listing::default());
        assert!(serde_json::to_string(&report).unwrap().contains("\"create_race\""));
    }

    #[tokio::test]
    async fn a_store_that_changes_bytes_is_found_out() {
        let store = Faulty::new(memory(), Plan::chance(1, 1, &[Fault::Corrupt]));
        let options = StoreOptions::new("memory:");
        let report = probe(&(store as Arc<dyn Store>), &options, &ObjectKey::new("probe").unwrap()).await;
        let failed: Vec<_> = report.checks.iter().filter(|check| !check.ok).map(|check| check.name).collect();
        assert_eq!(failed, ["create_only_once", "create_race", "read", "range", "multipart"]);
        assert!(!report.ok && !report.conditional_create);
    }

    #[tokio::test]
    async fn a_store_that_cannot_be_reached_is_a_report_not_a_panic() {
        let folder = tempfile::tempdir().unwrap();
        let options = StoreOptions::new(format!("file://{}", folder.path().display()));
        let store = crate::open(&options, "main").unwrap();
        let report = probe(&store, &options, &ObjectKey::new("probe").unwrap()).await;
        assert!(!report.ok && !report.conditional_create);
        assert!(report.checks[0].detail.contains("is missing"), "{report:?}");
    }
}

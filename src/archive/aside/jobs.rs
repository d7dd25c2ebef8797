//! What `wal set-aside` has to do in each repository, when it must not, and what is to be known before: decided over what was read.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::rest::{Rest, rest};
use super::{AsideError, AsidePlan, Facts, KeptServer, failed, plan};
use crate::archive::push::in_order::Contest;
use walward_pg::WalFileName;
use walward_repo::aside::{self, Aside, AsideId, Stage};
use walward_repo::transfer::{Compared, TransferError, compare};
use walward_repo::{Repository, layout};

/// What is to be done in one repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// A move that was cut is taken up.
    TakeUp(Aside, Rest),
    /// It is done here already, by the command that was cut elsewhere.
    Done,
    /// A new move; without objects there is nothing to do.
    New(AsidePlan),
}

/// What is to be done, in the order of the repositories.
#[derive(Debug, Clone)]
pub struct Jobs {
    /// Under which name.
    pub id: AsideId,
    /// In each of them.
    pub of_each: Vec<Job>,
    /// The server whose life is kept, where its data directory is on this host.
    pub kept: Option<KeptServer>,
}

/// Why nothing is set aside.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another move is not finished.
    #[error("{} in repository {repository:?} was cut and is not finished", .aside.begun.id)]
    Unfinished {
        /// Where.
        repository: String,
        /// That move.
        aside: Box<Aside>,
    },
    /// The file is the running server's.
    #[error("this cluster's agent archives timeline {} for the running server, and {from} is not a file that it refused", .from.timeline())]
    NotRefused {
        /// The file.
        from: WalFileName,
        /// What was refused.
        contested: Vec<WalFileName>,
    },
    /// The server has marked it.
    #[error("this cluster's server has archived {from} itself ({} is there)", .mark.display())]
    Marked {
        /// The file.
        from: WalFileName,
        /// Its mark.
        mark: PathBuf,
    },
    /// The repositories differ in it.
    #[error("the repositories hold two lives: {from} was written by {} in {:?}, by {} in {:?}", .lives.here.1, .lives.here.0, .lives.there.1, .lives.there.0)]
    TwoLives {
        /// The file.
        from: WalFileName,
        /// Who wrote it, and where.
        lives: Box<TwoLives>,
    },
    /// It has the content that the server has.
    #[error("repository {repository:?} has {from} with the content that this server has in pg_wal")]
    Own {
        /// Where.
        repository: String,
        /// The file.
        from: WalFileName,
        /// A move that was cut before this was known.
        cut: Option<AsideId>,
    },
}

impl Refusal {
    /// What the person can do.
    pub fn hint(&self) -> String {
        match self {
            Self::Unfinished { aside, .. } => match aside.stage {
                Stage::Returning => format!("`walward wal restore-aside {}` goes on with it", aside.begun.id),
                _ => format!("`walward wal set-aside --from {}` goes on with it", aside.begun.from),
            },
            Self::NotRefused { contested, .. } => {
                let names: Vec<String> = contested.iter().map(ToString::to_string).collect();
                match &names[..] {
                    [] => "it refuses no file now; `walward check` and the server's log say when it does".to_owned(),
                    names => format!("it refused {}", names.join(", ")),
                }
            }
            Self::Marked { .. } => {
                "name the first file that the server was refused; if its mark was made by hand, rename it to .ready"
                    .to_owned()
            }
            Self::TwoLives { .. } => "say with --repository in which of them it is the life that goes".to_owned(),
            Self::Own { cut: None, .. } => {
                "name the first file that the server was refused; say with --repository where it is another life's"
                    .to_owned()
            }
            Self::Own { cut: Some(id), .. } => format!("`walward wal restore-aside {id}` puts back what was moved"),
        }
    }
}

/// Two contents of one file: each repository, and who wrote what it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TwoLives {
    /// In the first.
    pub here: (String, String),
    /// In the second.
    pub there: (String, String),
}

/// The move that is to be taken up, by what was set aside in each repository before: what was cut goes first, under its own name. Pure.
///
/// # Errors
/// [`Refusal::Unfinished`]: another one was cut, or is on its way back.
pub fn cut<'a>(
    known: impl IntoIterator<Item = (&'a str, &'a [Aside])>,
    from: WalFileName,
) -> Result<Option<AsideId>, Refusal> {
    let mut cut = None;
    for (repository, asides) in known {
        for aside in asides.iter().filter(|aside| matches!(aside.stage, Stage::Cut | Stage::Returning)) {
            if aside.stage == Stage::Returning || aside.begun.from != from {
                return Err(Refusal::Unfinished { repository: repository.to_owned(), aside: Box::new(aside.clone()) });
            }
            cut = Some(aside.begun.id.clone());
        }
    }
    Ok(cut)
}

/// Whether what follows `from` may be another life's: `contest` is the agent's word, where one runs, `mark` the server's own, where it is there.
/// Pure.
///
/// # Errors
/// This cluster's own server has archived it, or the repositories hold two lives.
pub fn may_go(
    from: WalFileName,
    contest: Option<Contest>,
    mark: Option<PathBuf>,
    lives: Option<TwoLives>,
) -> Result<(), Refusal> {
    match (contest, mark, lives) {
        (Some(Contest { is_archived: true, is_contested: false, contested }), ..) => {
            Err(Refusal::NotRefused { from, contested })
        }
        (_, Some(mark), _) => Err(Refusal::Marked { from, mark }),
        (.., Some(lives)) => Err(Refusal::TwoLives { from, lives: Box::new(lives) }),
        _ => Ok(()),
    }
}

/// The first two repositories that hold different files under the name `from`.
///
/// # Errors
/// One of them cannot be read.
pub async fn two_lives(repositories: &[Repository], from: WalFileName) -> Result<Option<TwoLives>, TransferError> {
    let Some(entry) = repositories.first().and_then(|first| first.identity().current()) else { return Ok(None) };
    let key = layout::wal_file(entry.lineage, from);
    for (at, here) in repositories.iter().enumerate() {
        for there in repositories.iter().skip(at + 1) {
            if let Compared::Different { here: (ours, _), there: (theirs, _) } = compare(here, there, &key).await? {
                let (here, there) = (here.name().to_owned(), there.name().to_owned());
                return Ok(Some(TwoLives { here: (here, ours), there: (there, theirs) }));
            }
        }
    }
    Ok(None)
}

impl Jobs {
    /// Reads what there is to do under the name `id`, and what could not be read for it.
    pub async fn read(
        known: &[(&Repository, Vec<Aside>)],
        id: AsideId,
        from: WalFileName,
        kept: Option<KeptServer>,
    ) -> Result<(Self, Vec<String>), AsideError> {
        let (mut of_each, mut warnings) = (Vec::new(), Vec::new());
        for (repository, asides) in known {
            of_each.push(match asides.iter().find(|aside| aside.begun.id == id) {
                Some(aside) if aside.stage == Stage::Cut => {
                    let rest = Rest::read(repository, aside, kept.as_ref(), &mut warnings).await?;
                    Job::TakeUp(aside.clone(), rest)
                }
                Some(_) => Job::Done,
                None => {
                    let facts = Facts::read(repository, from, kept.as_ref()).await?;
                    warnings.extend(facts.iter().flat_map(|facts| facts.warnings.clone()));
                    Job::New(facts.map(|facts| plan(&facts, from)).unwrap_or_default())
                }
            });
        }
        Ok((Self { id, of_each, kept }, warnings))
    }

    /// Whether nothing of it was begun anywhere.
    pub fn is_new(&self) -> bool {
        self.of_each.iter().all(|job| matches!(job, Job::New(_)))
    }

    /// Whether there is nothing to move.
    pub fn is_empty(&self) -> bool {
        self.of_each.iter().all(|job| matches!(job, Job::New(plan) if plan.is_empty()))
    }

    /// Refuses where a repository, by `names` in their order, has this server's own content under the name `from`.
    ///
    /// # Errors
    /// [`Refusal::Own`].
    pub fn begins_elsewhere<'a>(
        &self,
        names: impl IntoIterator<Item = &'a str>,
        from: WalFileName,
    ) -> Result<(), Refusal> {
        let own = |job: &Job| match job {
            Job::New(plan) => plan.stays.contains(&from).then_some(None),
            Job::TakeUp(aside, rest) => rest.begins_in_own.then(|| Some(aside.begun.id.clone())),
            Job::Done => None,
        };
        match names.into_iter().zip(&self.of_each).find_map(|(name, job)| Some((name, own(job)?))) {
            Some((name, cut)) => Err(Refusal::Own { repository: name.to_owned(), from, cut }),
            None => Ok(()),
        }
    }

    /// What is to be known before anything is moved: what may be the kept server's own and goes all the same.
    pub fn doubts(&self, data_directory: &Path, from: WalFileName) -> Vec<String> {
        let directory = data_directory.display();
        let mut doubts = match &self.kept {
            _ if self.of_each.iter().all(|job| *job == Job::Done) => Vec::new(),
            None => vec![format!("no server's data directory is at {directory}: whatever follows {from} goes")],
            Some(kept) if kept.is_in_recovery() => vec![format!(
                "the server in {directory} is in recovery, so that what it has may be another's: whatever follows {from} goes"
            )],
            Some(_) => Vec::new(),
        };
        let doubtful: BTreeSet<_> = self.of_each.iter().flat_map(Job::doubtful).collect();
        if let (Some(first), Some(last)) = (doubtful.first(), doubtful.last()) {
            let count = doubtful.len();
            let range = if count == 1 { first.to_string() } else { format!("{first} to {last}, {count} files") };
            doubts.push(format!(
                "this server has written {range}, too, and has it in pg_wal no more, so that nothing tells whose the archive's is: it goes; \
                 before {from} is archived anew `walward wal restore-aside {}` puts everything back, later in a copy of the repository",
                self.id
            ));
        }
        doubts
    }
}

impl Job {
    /// WAL that goes and may be the kept server's own.
    pub fn doubtful(&self) -> impl Iterator<Item = WalFileName> {
        let doubtful = match self {
            Self::New(plan) => Some(&plan.doubtful),
            Self::TakeUp(_, rest) => Some(&rest.doubtful),
            Self::Done => None,
        };
        doubtful.into_iter().flatten().copied()
    }

    /// WAL that would go by its name and stays, because the kept server has it with the same content.
    pub fn stays(&self) -> BTreeSet<WalFileName> {
        match self {
            Self::New(plan) => plan.stays.clone(),
            Self::TakeUp(_, rest) => rest.stays.clone(),
            Self::Done => BTreeSet::new(),
        }
    }
}

impl Rest {
    /// Reads what is left of the move that `aside` cut, beside what the kept server has.
    pub async fn read(
        repository: &Repository,
        aside: &Aside,
        kept: Option<&KeptServer>,
        warnings: &mut Vec<String>,
    ) -> Result<Self, AsideError> {
        let Some(kept) = kept else { return Ok(Self::default()) };
        let listed = aside::objects(repository, &aside.begun).await;
        let listed = listed.map_err(failed(repository, "read what is set aside"))?;
        let Some(facts) = Facts::read(repository, aside.begun.from, Some(kept)).await? else {
            return Ok(Self::default());
        };
        warnings.extend(facts.warnings.clone());
        Ok(rest(&facts, &aside.begun, &listed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use walward_pg::Lineage;
    use walward_repo::aside::{Begun, FORMAT};

    const FROM: &str = "000000010000000000000004";

    fn name(text: &str) -> WalFileName {
        text.parse().expect("a name")
    }

    fn aside(second: i64, from: &str, stage: Stage) -> Aside {
        let begun = Timestamp::from_second(1_800_000_000 + second).expect("a time");
        let begun = Begun {
            format: FORMAT,
            id: AsideId::new(begun),
            lineage: Lineage { major: 15, system_identifier: 7 },
            from: name(from),
            begun,
            host: "db1".to_owned(),
            user: None,
            reason: String::new(),
            lists: 0,
            objects: 0,
            bytes: 0,
            backups: Vec::new(),
        };
        Aside { begun, stage }
    }

    #[test]
    fn what_was_cut_is_taken_up_under_its_name_and_keeps_others_from_beginning() {
        let cut_by = |one: &[Aside], two: &[Aside]| cut([("one", one), ("two", two)], name(FROM));
        assert_eq!(cut_by(&[], &[aside(1, FROM, Stage::Aside), aside(2, FROM, Stage::Returned)]), Ok(None));
        let ours = aside(3, FROM, Stage::Cut);
        assert_eq!(
            cut_by(&[aside(3, FROM, Stage::Aside)], std::slice::from_ref(&ours)),
            Ok(Some(ours.begun.id.clone()))
        );
        let other = "000000010000000000000009";
        for (aside, hint) in [
            (aside(4, other, Stage::Cut), "--from 000000010000000000000009"),
            (aside(4, FROM, Stage::Returning), "restore-aside"),
        ] {
            let refused = cut_by(std::slice::from_ref(&ours), &[aside]).expect_err("another one is not finished");
            assert!(refused.to_string().contains("in repository \"two\" was cut") && refused.hint().contains(hint));
        }
    }

    #[test]
    fn what_this_server_archived_or_two_repositories_hold_differently_does_not_go() {
        let contest = |is_archived, is_contested| {
            Some(Contest { is_archived, is_contested, contested: vec![name("000000010000000000000007")] })
        };
        let (mark, lives) = (
            Some(PathBuf::from("/pg_wal/archive_status/x.done")),
            Some(TwoLives { here: ("one".into(), "db1".into()), there: ("two".into(), "db2".into()) }),
        );
        let judge = |contest, mark, lives| may_go(name(FROM), contest, mark, lives);
        for contest in [None, contest(false, false), contest(true, true)] {
            assert_eq!(judge(contest.clone(), None, None), Ok(()));
            assert!(matches!(judge(contest.clone(), mark.clone(), lives.clone()), Err(Refusal::Marked { .. })));
            let refused = judge(contest, None, lives.clone()).expect_err("two lives");
            assert!(
                refused.to_string().contains("written by db1 in \"one\", by db2 in \"two\"")
                    && refused.hint().contains("--repository")
            );
        }
        let refused = judge(contest(true, false), None, None).expect_err("the agent archives it");
        assert!(
            refused.to_string().contains("archives timeline 1")
                && refused.hint().contains("it refused 000000010000000000000007")
        );
    }

    fn jobs(of_each: Vec<Job>) -> Jobs {
        Jobs { id: AsideId::new(Timestamp::UNIX_EPOCH), of_each, kept: None }
    }

    #[test]
    fn a_move_that_would_begin_with_the_servers_own_file_is_refused_also_when_it_was_cut_before() {
        let own = Job::New(AsidePlan { stays: [name(FROM)].into(), ..AsidePlan::default() });
        let later = Job::New(AsidePlan { stays: [name("000000010000000000000005")].into(), ..AsidePlan::default() });
        let cut = aside(1, FROM, Stage::Cut);
        let taken_up = |begins_in_own| Job::TakeUp(cut.clone(), Rest { begins_in_own, ..Rest::default() });
        let judge = |job: Job| jobs(vec![later.clone(), job]).begins_elsewhere(["one", "two"], name(FROM));
        assert_eq!((judge(later.clone()), judge(Job::Done), judge(taken_up(false))), (Ok(()), Ok(()), Ok(())));
        let refused = judge(own).expect_err("the server's own");
        assert!(refused.to_string().contains("repository \"two\"") && refused.hint().contains("--repository"));
        let refused = judge(taken_up(true)).expect_err("the server's own");
        assert!(refused.hint().contains(&format!("restore-aside {}", cut.begun.id)));
    }

    #[test]
    fn what_may_be_the_servers_own_and_goes_is_named_also_when_a_move_is_taken_up() {
        let directory = Path::new("/data");
        let doubts = |job: Job| jobs(vec![job]).doubts(directory, name(FROM));
        assert_eq!(doubts(Job::Done), Vec::<String>::new());
        let two = [name("000000010000000000000005"), name("000000010000000000000006")];
        for job in [
            Job::New(AsidePlan { doubtful: two.into(), ..AsidePlan::default() }),
            Job::TakeUp(aside(1, FROM, Stage::Cut), Rest { doubtful: two.into(), ..Rest::default() }),
        ] {
            let [none, doubt] = &doubts(job)[..] else { panic!("two doubts") };
            assert!(none.contains("no server's data directory is at /data"), "{none}");
            assert!(doubt.contains("000000010000000000000005 to 000000010000000000000006, 2 files"), "{doubt}");
        }
    }
}

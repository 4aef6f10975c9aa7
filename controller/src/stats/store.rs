//! What was counted, kept in a database of its own: `stats.db`, which may be lost without harm to the fleet.
//!
//! Every piece is added to its minute, its hour and its day at once, so hours and days are the sums of their minutes by
//! construction, whenever a piece arrives. The place up to which an edge was read is kept in the same transaction, so a
//! piece counts once. Not synced to disk per commit: a power cut may cost the last minutes, which edges still have.

use std::path::Path;

use nearside_fleet::stats::{Pieces, Sums};
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, Transaction, params};

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS place (pop TEXT PRIMARY KEY, life INTEGER NOT NULL, number INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cell (step INTEGER NOT NULL, at INTEGER NOT NULL, site TEXT NOT NULL, pop TEXT NOT NULL,
    sums TEXT NOT NULL, PRIMARY KEY (step, at, site, pop)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS top (step INTEGER NOT NULL, at INTEGER NOT NULL, site TEXT NOT NULL, pop TEXT NOT NULL,
    path TEXT NOT NULL, requests INTEGER NOT NULL, PRIMARY KEY (step, at, site, pop, path)) WITHOUT ROWID;
";

const MINUTE: u64 = 60;
const HOUR: u64 = 3_600;
const DAY: u64 = 86_400;

/// A resolution and how long it is kept, seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Seconds of one cell.
    pub step: u64,
    /// How far back there are any.
    pub kept: u64,
}

/// From fine to coarse: minutes for two days, hours for ninety, days for five years.
pub const LEVELS: [Level; 3] = [
    Level { step: MINUTE, kept: 2 * DAY },
    Level { step: HOUR, kept: 90 * DAY },
    Level { step: DAY, kept: 5 * 366 * DAY },
];
/// Paths are kept by hour for as long as minutes are, and by day for as long as hours are.
const TOPS: [Level; 2] = [Level { step: HOUR, kept: 2 * DAY }, Level { step: DAY, kept: 90 * DAY }];
/// Paths of one site, PoP and cell: more than a page shows. Twice as many are there before the rest is dropped.
const PATHS_MAX: usize = 100;
/// Cells of minutes in all: ten PoPs with a hundred sites, two days; some 700 MB. Past it the oldest go early.
const CELLS_MAX: u64 = 3_000_000;
/// How often what is too old is dropped, seconds.
const TRIM_EVERY: u64 = 600;

/// Why the statistics can't be read or kept.
#[derive(Debug, thiserror::Error)]
#[error("statistics: {0}")]
pub struct StoreError(#[from] rusqlite::Error);

/// One site at one PoP in one step of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// When it begins, seconds since the epoch.
    pub at: u64,
    /// Which site; empty: requests of none.
    pub site: String,
    /// Which PoP.
    pub pop: String,
    /// What was counted.
    pub sums: Sums,
}

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// One site alone.
    pub site: Option<String>,
    /// One PoP alone.
    pub pop: Option<String>,
    /// From this second on.
    pub from: u64,
    /// Up to this one, not included.
    pub until: u64,
}

/// See the module. Calls may come from any thread; they take up to a second where much is asked for.
#[derive(Debug)]
pub struct Store {
    connection: Mutex<Connection>,
    trimmed: Mutex<u64>,
}

impl Store {
    /// Opens or makes the database; one that can't be read is put aside and begun anew.
    ///
    /// # Errors
    /// [`StoreError`] where not even a new one can be made.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = match Self::connect(path) {
            Ok(connection) => connection,
            Err(error) => {
                let aside = path.with_extension("db.damaged");
                tracing::error!(%error, aside = %aside.display(), "statistics can't be read; they begin anew");
                // Where it can't be moved, making the new one fails and says why.
                let _moved = std::fs::rename(path, aside);
                for journal in ["db-wal", "db-shm"] {
                    let _gone = std::fs::remove_file(path.with_extension(journal));
                }
                Self::connect(path)?
            }
        };
        Ok(Self { connection: Mutex::new(connection), trimmed: Mutex::new(0) })
    }

    fn connect(path: &Path) -> Result<Connection, StoreError> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "OFF")?;
        connection.execute_batch(SCHEMA)?;
        Ok(connection)
    }

    /// Up to where an edge was read: its life, and the last number of it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn place(&self, pop: &str) -> Result<(u64, u64), StoreError> {
        Ok(place(&self.connection.lock(), pop)?)
    }

    /// Adds what an edge handed out and is not there yet. Returns how many pieces that were.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is added then.
    pub fn add(&self, pop: &str, pieces: &Pieces, now: u64) -> Result<usize, StoreError> {
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        let (life, number) = place(&transaction, pop)?;
        let known = if life == pieces.life { number } else { 0 };
        let mut last = known;
        let mut added = 0;
        for piece in pieces.pieces.iter().filter(|piece| piece.number > known) {
            let at = piece.minute.saturating_mul(MINUTE);
            for (site, counted) in &piece.sites {
                for level in LEVELS {
                    add_cell(&transaction, level.step, at - at % level.step, site, pop, &counted.sums)?;
                }
                for level in TOPS {
                    add_paths(&transaction, level.step, at - at % level.step, site, pop, &counted.top)?;
                }
            }
            last = last.max(piece.number);
            added += 1;
        }
        transaction
            .execute("INSERT OR REPLACE INTO place VALUES (?, ?, ?)", params![pop, pieces.life, last])?;
        transaction.commit()?;
        let mut trimmed = self.trimmed.lock();
        if now.saturating_sub(*trimmed) >= TRIM_EVERY {
            *trimmed = now;
            trim(&connection, now)?;
        }
        Ok(added)
    }

    /// Hands every cell of a level that is asked for to `each`, by time.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn cells(&self, level: Level, wanted: &Wanted, mut each: impl FnMut(Cell)) -> Result<(), StoreError> {
        let connection = self.connection.lock();
        let mut query = connection.prepare_cached(
            "SELECT at, site, pop, sums FROM cell WHERE step = ?1 AND at >= ?2 AND at < ?3
             AND (?4 IS NULL OR site = ?4) AND (?5 IS NULL OR pop = ?5) ORDER BY at",
        )?;
        let mut rows =
            query.query(params![level.step, wanted.from, wanted.until, wanted.site, wanted.pop])?;
        while let Some(row) = rows.next()? {
            let text: String = row.get(3)?;
            let sums = sums(&text)?;
            each(Cell { at: row.get(0)?, site: row.get(1)?, pop: row.get(2)?, sums });
        }
        Ok(())
    }

    /// The busiest paths: site, path, about how many requests. Whole hours, or days of long ago.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn top(
        &self,
        wanted: &Wanted,
        now: u64,
        count: usize,
    ) -> Result<Vec<(String, String, u64)>, StoreError> {
        let connection = self.connection.lock();
        let level = if wanted.from + TOPS[0].kept >= now { TOPS[0] } else { TOPS[1] };
        let mut query = connection.prepare_cached(
            "SELECT site, path, SUM(requests) AS total FROM top WHERE step = ?1 AND at >= ?2 AND at < ?3
             AND (?4 IS NULL OR site = ?4) AND (?5 IS NULL OR pop = ?5)
             GROUP BY site, path ORDER BY total DESC, site, path LIMIT ?6",
        )?;
        let from = wanted.from - wanted.from % level.step;
        let values = params![level.step, from, wanted.until, wanted.site, wanted.pop, count];
        let rows = query.query_map(values, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

fn place(connection: &Connection, pop: &str) -> rusqlite::Result<(u64, u64)> {
    let mut query = connection.prepare_cached("SELECT life, number FROM place WHERE pop = ?")?;
    Ok(query.query_row([pop], |row| Ok((row.get(0)?, row.get(1)?))).optional()?.unwrap_or_default())
}

fn sums(text: &str) -> rusqlite::Result<Sums> {
    serde_json::from_str(text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(3, rusqlite::types::Type::Text, error.into())
    })
}

fn add_cell(
    transaction: &Transaction<'_>,
    step: u64,
    at: u64,
    site: &str,
    pop: &str,
    more: &Sums,
) -> rusqlite::Result<()> {
    let known: Option<String> = transaction
        .prepare_cached("SELECT sums FROM cell WHERE step = ? AND at = ? AND site = ? AND pop = ?")?
        .query_row(params![step, at, site, pop], |row| row.get(0))
        .optional()?;
    let mut all = known.as_deref().map(sums).transpose()?.unwrap_or_default();
    all.add(more);
    let text =
        serde_json::to_string(&all).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    transaction
        .prepare_cached("INSERT OR REPLACE INTO cell VALUES (?, ?, ?, ?, ?)")?
        .execute(params![step, at, site, pop, text])?;
    Ok(())
}

fn add_paths(
    transaction: &Transaction<'_>,
    step: u64,
    at: u64,
    site: &str,
    pop: &str,
    paths: &[(String, u64)],
) -> rusqlite::Result<()> {
    for (path, requests) in paths {
        transaction
            .prepare_cached(
                "INSERT INTO top VALUES (?, ?, ?, ?, ?, ?)
                 ON CONFLICT DO UPDATE SET requests = requests + excluded.requests",
            )?
            .execute(params![step, at, site, pop, path, requests])?;
    }
    let there: usize = transaction
        .prepare_cached("SELECT COUNT(*) FROM top WHERE step = ? AND at = ? AND site = ? AND pop = ?")?
        .query_row(params![step, at, site, pop], |row| row.get(0))?;
    if there > 2 * PATHS_MAX {
        transaction
            .prepare_cached(
                "DELETE FROM top WHERE step = ?1 AND at = ?2 AND site = ?3 AND pop = ?4 AND path NOT IN
                 (SELECT path FROM top WHERE step = ?1 AND at = ?2 AND site = ?3 AND pop = ?4
                  ORDER BY requests DESC LIMIT ?5)",
            )?
            .execute(params![step, at, site, pop, PATHS_MAX])?;
    }
    Ok(())
}

/// Drops what is too old, or too much, and gives some of its space back.
fn trim(connection: &Connection, now: u64) -> rusqlite::Result<()> {
    for (table, levels) in [("cell", &LEVELS[..]), ("top", &TOPS[..])] {
        for level in levels {
            let sql = format!("DELETE FROM {table} WHERE step = ? AND at < ?");
            connection.execute(&sql, params![level.step, now.saturating_sub(level.kept)])?;
        }
    }
    let minutes: u64 =
        connection.query_row("SELECT COUNT(*) FROM cell WHERE step = ?", [MINUTE], |row| row.get(0))?;
    if minutes > CELLS_MAX {
        connection.execute(
            "DELETE FROM cell WHERE step = ?1 AND at <= (SELECT at FROM cell WHERE step = ?1 ORDER BY at LIMIT 1 OFFSET ?2)",
            params![MINUTE, minutes - CELLS_MAX],
        )?;
    }
    connection.execute_batch("PRAGMA incremental_vacuum(5000)")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use nearside_fleet::stats::{Piece, SiteMinute};

    use super::*;

    const ALL: Wanted = Wanted { site: None, pop: None, from: 0, until: u64::MAX >> 1 };

    fn store() -> (tempfile::TempDir, Store) {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(&temp.path().join("stats.db")).unwrap();
        (temp, store)
    }

    fn pieces(life: u64, pieces: &[(u64, u64, u64)]) -> Pieces {
        let piece = |&(number, minute, hits): &(u64, u64, u64)| {
            let sums = Sums { requests: vec![(0, 2, hits)], bytes_out: hits * 10, ..Sums::default() };
            let site = SiteMinute { sums, top: vec![("/a".to_owned(), hits)] };
            Piece { number, minute, seconds: 60.0, sites: [("www".to_owned(), site)].into() }
        };
        Pieces { life, pieces: pieces.iter().map(piece).collect(), more: false }
    }

    fn total(store: &Store, level: Level) -> u64 {
        let mut total = 0;
        store.cells(level, &ALL, |cell| total += cell.sums.total()).unwrap();
        total
    }

    #[test]
    fn a_piece_counts_once_and_a_new_life_adds() {
        let (_temp, store) = store();
        assert_eq!(store.add("fra", &pieces(7, &[(1, 100, 5), (2, 101, 6)]), 0).unwrap(), 2);
        assert_eq!(store.add("fra", &pieces(7, &[(2, 101, 6), (3, 101, 1)]), 0).unwrap(), 1);
        assert_eq!(store.place("fra").unwrap(), (7, 3));
        assert_eq!(total(&store, LEVELS[0]), 12);
        store.add("fra", &pieces(8, &[(1, 101, 3)]), 0).unwrap();
        assert_eq!(store.place("fra").unwrap(), (8, 1));
        store.add("nyc", &pieces(8, &[(1, 101, 3)]), 0).unwrap();
        assert_eq!(LEVELS.map(|level| total(&store, level)), [18; 3]);
        assert_eq!(store.top(&ALL, 0, 9).unwrap(), [("www".to_owned(), "/a".to_owned(), 18)]);
        let fra = Wanted { pop: Some("fra".into()), ..ALL };
        assert_eq!(store.top(&fra, 0, 9).unwrap()[0].2, 15);
    }

    #[test]
    fn hours_and_days_are_the_sums_of_their_minutes() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let (_temp, store) = store();
        for pop in ["fra", "nyc"] {
            let mut next = 1;
            for _ in 0..40 {
                let batch: Vec<(u64, u64, u64)> = (0..random.u64(1..6))
                    .map(|offset| (next + offset, random.u64(28_000_000..28_010_000), random.u64(0..1000)))
                    .collect();
                next += batch.len() as u64;
                store.add(pop, &pieces(1, &batch), 0).unwrap();
            }
        }
        let mut minutes: BTreeMap<(u64, String, String), Sums> = BTreeMap::new();
        let mut sum_by = |step: u64| {
            minutes.clear();
            store
                .cells(LEVELS[0], &ALL, |cell| {
                    minutes
                        .entry((cell.at - cell.at % step, cell.site, cell.pop))
                        .or_default()
                        .add(&cell.sums);
                })
                .unwrap();
            minutes.clone()
        };
        for level in &LEVELS[1..] {
            let mut found = BTreeMap::new();
            store
                .cells(*level, &ALL, |cell| drop(found.insert((cell.at, cell.site, cell.pop), cell.sums)))
                .unwrap();
            assert_eq!(found, sum_by(level.step));
        }
    }

    #[test]
    fn what_is_old_is_dropped_at_its_own_level_only() {
        let (_temp, store) = store();
        let now = 28_000_000 * MINUTE;
        store.add("fra", &pieces(1, &[(1, 28_000_000 - 3 * 24 * 60, 5)]), now - 1).unwrap();
        store.add("fra", &pieces(1, &[(2, 28_000_000, 7)]), now + TRIM_EVERY).unwrap();
        assert_eq!(LEVELS.map(|level| total(&store, level)), [7, 12, 12]);
    }

    #[test]
    fn a_damaged_database_is_put_aside() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("stats.db");
        std::fs::write(&path, vec![b'x'; 10_000]).unwrap();
        let store = Store::open(&path).unwrap();
        store.add("fra", &pieces(1, &[(1, 100, 5)]), 0).unwrap();
        assert_eq!(total(&store, LEVELS[0]), 5);
        assert!(temp.path().join("stats.db.damaged").exists());
    }

    #[test]
    fn only_the_busiest_paths_stay() {
        let (_temp, store) = store();
        let top: Vec<(String, u64)> = (0..20).map(|n| (format!("/{n}"), 1_000)).collect();
        for number in 1..50 {
            let rare = (0..20).map(|n| (format!("/rare/{number}/{n}"), 1));
            let top = top.iter().cloned().chain(rare).collect();
            let site = SiteMinute { top, ..SiteMinute::default() };
            let piece = Piece { number, minute: 100, sites: [("www".to_owned(), site)].into(), seconds: 1.0 };
            store.add("fra", &Pieces { life: 1, pieces: vec![piece], more: false }, 0).unwrap();
        }
        let found = store.top(&ALL, 0, 1_000).unwrap();
        assert!(found.len() <= 2 * PATHS_MAX, "{}", found.len());
        assert!(found[..20].iter().all(|(_, _, requests)| *requests == 49_000), "{:?}", &found[..20]);
    }
}

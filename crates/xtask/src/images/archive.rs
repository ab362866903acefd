//! OCI image archives: layers as tar files of sorted entries with fixed times, so that the same content always has the
//! same digest.
//!
//! The format: <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>. Layers are not compressed:
//! these archives go from disk to the node beside it, and unpacking is most of the time until a pod starts.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufReader, BufWriter, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use super::{replace, write_whole};
use crate::tools;

/// What lies at a path of a layer.
#[derive(Debug, Clone)]
pub enum Entry {
    Folder {
        mode: u32,
    },
    /// A file of this machine; it is executable in the image if it is here.
    File(PathBuf),
    Text(String),
    Link(String),
}

/// Files that change together. Paths have no leading slash.
#[derive(Debug, Clone, Default)]
pub struct Layer {
    entries: BTreeMap<String, Entry>,
}

impl Layer {
    /// Puts something at a path, and folders above it.
    pub fn add(&mut self, path: impl Into<String>, entry: Entry) {
        let path = path.into();
        let mut above = Path::new(&path).parent();
        while let Some(folder) = above.filter(|folder| !folder.as_os_str().is_empty()) {
            self.entries.entry(folder.display().to_string()).or_insert(Entry::Folder { mode: 0o755 });
            above = folder.parent();
        }
        self.entries.insert(path, entry);
    }

    /// Adds every file below a folder of this machine that `keep` wants, given its path from there.
    pub fn add_tree(&mut self, at: &str, from: &Path, keep: &dyn Fn(&Path) -> bool) -> Result<()> {
        let mut folders = vec![from.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
                let path = entry?.path();
                let below = path.strip_prefix(from)?;
                if !keep(below) {
                    continue;
                }
                // Links are followed: what they lead to may lie outside of the image.
                if path.is_dir() {
                    folders.push(path);
                } else if path.is_file() {
                    self.add(format!("{at}/{}", below.display()), Entry::File(path.clone()));
                }
            }
        }
        Ok(())
    }

    /// Whether anything lies at a path.
    pub fn has(&self, path: &str) -> bool {
        self.entries.contains_key(path)
    }

    /// A hash that changes when a file does, found without reading the files.
    fn fingerprint(&self) -> Result<String> {
        let mut hash = Sha256::new();
        for (path, entry) in &self.entries {
            let detail = match entry {
                Entry::Folder { mode } => format!("folder {mode:o}"),
                Entry::Text(text) => format!("text {text}"),
                Entry::Link(target) => format!("link {target}"),
                Entry::File(source) => {
                    let meta = fs::metadata(source).with_context(|| format!("looking at {}", source.display()))?;
                    format!(
                        "file {} {} {}.{} {:o}",
                        source.display(),
                        meta.len(),
                        meta.mtime(),
                        meta.mtime_nsec(),
                        meta.mode()
                    )
                }
            };
            hash.update(format!("{path}\0{detail}\0"));
        }
        Ok(hex(hash))
    }

    fn write(&self, to: impl Write) -> Result<()> {
        let mut tar = Builder::new(to);
        for (path, entry) in &self.entries {
            let mut header = Header::new_gnu();
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
            header.set_size(0);
            match entry {
                Entry::Folder { mode } => {
                    header.set_entry_type(EntryType::Directory);
                    header.set_mode(*mode);
                    tar.append_data(&mut header, format!("{path}/"), io::empty())?;
                }
                Entry::Link(target) => {
                    header.set_entry_type(EntryType::Symlink);
                    header.set_mode(0o777);
                    tar.append_link(&mut header, path, target)?;
                }
                Entry::Text(text) => {
                    header.set_mode(0o644);
                    header.set_size(text.len() as u64);
                    tar.append_data(&mut header, path, text.as_bytes())?;
                }
                Entry::File(source) => {
                    let file = File::open(source).with_context(|| format!("reading {}", source.display()))?;
                    let meta = file.metadata()?;
                    header.set_mode(if meta.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 });
                    header.set_size(meta.len());
                    tar.append_data(&mut header, path, BufReader::with_capacity(1 << 20, file))?;
                }
            }
        }
        tar.into_inner()?.flush()?;
        Ok(())
    }
}

/// How a container of the image runs.
#[derive(Debug, Clone, Default)]
pub struct Config {
    pub entrypoint: Vec<String>,
    pub env: Vec<String>,
    /// `uid:gid`.
    pub user: String,
    pub folder: String,
}

/// A layer that is on disk as a tar file.
struct Packed {
    file: PathBuf,
    digest: String,
    size: u64,
}

/// Writes the archive of an image, if its layers or configuration have changed since; returns whether it did.
pub fn write(archive: &Path, name: &str, layers: &[Layer], config: &Config) -> Result<bool> {
    let cache = archive.with_file_name("layers");
    tools::make_folder(&cache)?;
    let prints = layers.iter().map(Layer::fingerprint).collect::<Result<Vec<_>>>()?;
    let inputs = format!("{name} {config:?} {prints:?}\n");
    let note = archive.with_extension("inputs");
    if archive.exists() && fs::read_to_string(&note).is_ok_and(|noted| noted == inputs) {
        return Ok(false);
    }
    let packed =
        layers.iter().zip(&prints).map(|(layer, print)| pack(layer, &cache.join(print))).collect::<Result<Vec<_>>>()?;

    let image = json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Entrypoint": config.entrypoint, "Env": config.env, "User": config.user, "WorkingDir": config.folder},
        "rootfs": {"type": "layers", "diff_ids": packed.iter().map(|layer| &layer.digest).collect::<Vec<_>>()},
    });
    let image = image.to_string();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("application/vnd.oci.image.config.v1+json", &image),
        "layers": packed.iter().map(|layer| json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer.digest, "size": layer.size,
        })).collect::<Vec<_>>(),
    });
    let manifest = manifest.to_string();
    let mut entry = blob("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["annotations"] = json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name});
    let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();

    let new = archive.with_extension("new");
    let mut tar = Builder::new(create(&new)?);
    for (path, text) in [
        ("oci-layout".to_owned(), r#"{"imageLayoutVersion":"1.0.0"}"#.to_owned()),
        ("index.json".to_owned(), index),
        (blob_path(&digest_of(&image)), image),
        (blob_path(&digest_of(&manifest)), manifest),
    ] {
        tar.append_data(&mut blob_header(text.len() as u64), path, text.as_bytes())?;
    }
    for layer in &packed {
        tar.append_data(&mut blob_header(layer.size), blob_path(&layer.digest), File::open(&layer.file)?)?;
    }
    tar.into_inner()?.flush()?;
    replace(&new, archive)?;
    write_whole(&note, inputs)?;
    Ok(true)
}

/// Makes a layer's tar file, or finds the one of an earlier time.
fn pack(layer: &Layer, base: &Path) -> Result<Packed> {
    let (file, note) = (base.with_extension("tar"), base.with_extension("digest"));
    if !file.exists() || !note.exists() {
        let new = base.with_extension("new");
        let mut hashing = Hashing { to: create(&new)?, hash: Sha256::new() };
        layer.write(&mut hashing)?;
        replace(&new, &file)?;
        write_whole(&note, format!("sha256:{}", hex(hashing.hash)))?;
    }
    Ok(Packed { digest: fs::read_to_string(&note)?, size: fs::metadata(&file)?.len(), file })
}

fn create(path: &Path) -> Result<BufWriter<File>> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(BufWriter::with_capacity(1 << 20, file))
}

/// Hashes what passes through.
struct Hashing<W> {
    to: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

fn blob(kind: &str, text: &str) -> serde_json::Value {
    json!({"mediaType": kind, "digest": digest_of(text), "size": text.len()})
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

fn blob_header(size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_size(size);
    header
}

fn digest_of(text: &str) -> String {
    format!("sha256:{}", hex(Sha256::new_with_prefix(text)))
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// The names and digests of what lies in an archive, for tests and messages.
    fn listing(archive: &Path) -> Vec<(String, String)> {
        let mut tar = tar::Archive::new(File::open(archive).unwrap());
        let mut all = Vec::new();
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            all.push((entry.path().unwrap().display().to_string(), hex(Sha256::new_with_prefix(bytes))));
        }
        all
    }

    fn layer(folder: &Path) -> Layer {
        let source = folder.join("program");
        fs::write(&source, "binary").unwrap();
        fs::set_permissions(&source, fs::Permissions::from_mode(0o700)).unwrap();
        let mut layer = Layer::default();
        layer.add("usr/bin/program", Entry::File(source));
        layer.add("lib", Entry::Link("usr/lib".into()));
        layer.add("etc/passwd", Entry::Text("root:x:0:0::/:\n".into()));
        layer
    }

    #[test]
    fn every_blob_has_the_name_of_its_digest() {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("x.tar");
        assert!(write(&archive, "weft.test/x:dev", &[layer(folder.path())], &Config::default()).unwrap());
        let blobs: Vec<_> = listing(&archive).into_iter().filter(|(path, _)| path.starts_with("blobs/")).collect();
        assert_eq!(blobs.len(), 3);
        for (path, digest) in blobs {
            assert_eq!(path, format!("blobs/sha256/{digest}"));
        }
    }

    #[test]
    fn the_same_content_built_elsewhere_later_is_the_same_archive() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let archives = [one.path().join("x.tar"), two.path().join("x.tar")];
        for archive in &archives {
            write(archive, "weft.test/x:dev", &[layer(archive.parent().unwrap())], &Config::default()).unwrap();
        }
        assert_eq!(fs::read(&archives[0]).unwrap(), fs::read(&archives[1]).unwrap());
    }

    #[test]
    fn an_unchanged_image_is_left_alone_and_a_changed_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("x.tar");
        let layer = layer(folder.path());
        let build = |layer: &Layer| {
            write(&archive, "weft.test/x:dev", std::slice::from_ref(layer), &Config::default()).unwrap()
        };
        assert!(build(&layer));
        assert!(!build(&layer));
        fs::write(folder.path().join("program"), "another binary").unwrap();
        assert!(build(&layer));
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let said = |at: &str| {
            let written = write(&folder.path().join(at), "weft.test/x:dev", &[], &Config::default());
            format!("{:#}", written.unwrap_err())
        };
        fs::write(folder.path().join("file"), "").unwrap();
        assert!(
            said("file/x.tar").contains(&format!("{}/file/layers", folder.path().display())),
            "{}",
            said("file/x.tar")
        );
        fs::create_dir(folder.path().join("y.new")).unwrap();
        assert!(
            said("y.tar").contains(&format!("cannot write {}/y.new", folder.path().display())),
            "{}",
            said("y.tar")
        );
    }
}

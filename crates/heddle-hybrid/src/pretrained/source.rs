//! Tensors in safetensors files, read one at a time by position.
//!
//! The files are not mapped into memory: a map needs `unsafe`, and a process that touches a map of a file that was cut short
//! in the meantime dies of SIGBUS, where a read returns an error. Only one stretch of one tensor is held beside the tensor
//! that it goes to, and nothing is allocated by a size that the file does not have.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::ShardIndex;
use super::error::PretrainedError;

/// Bytes that precede the header and state its length.
const PREFIX: u64 = 8;

/// Bytes of a header at most, as in the format's own implementation.
const LONGEST_HEADER: u64 = 100_000_000;

/// Numbers of a stretch, unless a row is longer.
const STRETCH: usize = 1 << 18;

/// One safetensors file: its header, and where the tensors lie.
///
/// ```
/// use std::io::Cursor;
/// use heddle_hybrid::pretrained::TensorFile;
///
/// let header = br#"{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}"#;
/// let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
/// bytes.extend_from_slice(header);
/// bytes.extend([0x80, 0x3f, 0x00, 0xc0]);
/// let mut file = TensorFile::open("model.safetensors", Cursor::new(bytes)).unwrap();
/// let mut values = vec![];
/// file.read("a", 1, |_, stretch| values.extend_from_slice(stretch)).unwrap();
/// assert_eq!(values, [1.0, -2.0]);
/// ```
#[derive(Debug)]
pub struct TensorFile<R> {
    name: String,
    source: R,
    data_start: u64,
    header: Metadata,
}

impl<R: Read + Seek> TensorFile<R> {
    /// Reads the header of the file called `name`.
    ///
    /// # Errors
    /// If it is no safetensors file, is cut short, or its header contradicts itself or the file's length.
    pub fn open(name: &str, mut source: R) -> Result<Self, PretrainedError> {
        let io = |source| PretrainedError::Io { file: name.to_owned(), source };
        let length = source.seek(SeekFrom::End(0)).map_err(io)?;
        source.seek(SeekFrom::Start(0)).map_err(io)?;
        let Some(behind) = length.checked_sub(PREFIX) else {
            return Err(PretrainedError::file(name, format!("{length} bytes are no safetensors file")));
        };
        let mut prefix = [0; PREFIX as usize];
        source.read_exact(&mut prefix).map_err(io)?;
        let header_length = u64::from_le_bytes(prefix);
        if header_length > behind.min(LONGEST_HEADER) {
            let problem = format!("its header is said to be {header_length} bytes long, but {behind} bytes follow");
            return Err(PretrainedError::file(name, problem));
        }
        let mut text = vec![0; header_length as usize];
        source.read_exact(&mut text).map_err(io)?;
        let header: Metadata = serde_json::from_slice(&text)
            .map_err(|error| PretrainedError::file(name, format!("its header cannot be read: {error}")))?;
        let (data, there) = (header.data_len() as u64, behind - header_length);
        if data != there {
            let problem = format!("its tensors take {data} bytes, but {there} follow the header");
            return Err(PretrainedError::file(name, problem));
        }
        Ok(Self { name: name.to_owned(), source, data_start: PREFIX + header_length, header })
    }

    /// The names of its tensors, in the order in which they lie.
    pub fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    fn info(&self, name: &str) -> Result<&TensorInfo, PretrainedError> {
        self.header.info(name).ok_or_else(|| PretrainedError::tensor(name, format!("{} does not hold it", self.name)))
    }

    /// The shape of a tensor.
    ///
    /// # Errors
    /// If the file does not hold it.
    pub fn shape(&self, name: &str) -> Result<&[usize], PretrainedError> {
        self.info(name).map(|info| info.shape.as_slice())
    }

    /// How the numbers of a tensor are stored.
    fn number(&self, name: &str) -> Result<Number, PretrainedError> {
        match self.info(name)?.dtype {
            Dtype::F32 => Ok(Number { bytes: 4, widen: |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]) }),
            Dtype::F16 => Ok(Number { bytes: 2, widen: |b| half::f16::from_le_bytes([b[0], b[1]]).to_f32() }),
            Dtype::BF16 => Ok(Number { bytes: 2, widen: |b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32() }),
            other => Err(PretrainedError::Tensor {
                name: name.to_owned(),
                problem: format!("its numbers are {other:?}"),
                remedy: "F32, F16 and BF16 can be read; convert the checkpoint",
            }),
        }
    }

    /// Reads a tensor of 32- or 16-bit floating-point numbers, widened to f32, stretch by stretch: `take` gets the place of
    /// the first number and the numbers, always whole rows of length `row`.
    ///
    /// # Errors
    /// If the file does not hold the tensor, its numbers are of another kind, or the system fails.
    pub fn read(&mut self, name: &str, row: usize, take: impl FnMut(usize, &[f32])) -> Result<(), PretrainedError> {
        let count = self.shape(name)?.iter().product();
        self.read_part(name, row, 0..count, take)
    }

    /// [`read`](Self::read) for the numbers of `part`, counted from the tensor's first; places are counted from the part's.
    ///
    /// # Errors
    /// As there, and if the part is not one of the tensor.
    pub fn read_part(
        &mut self,
        name: &str,
        row: usize,
        part: Range<usize>,
        mut take: impl FnMut(usize, &[f32]),
    ) -> Result<(), PretrainedError> {
        let number = self.number(name)?;
        let (start, end) = self.info(name)?.data_offsets;
        if part.start > part.end || part.end > (end - start) / number.bytes {
            return Err(PretrainedError::tensor(name, format!("it has no numbers {} to {}", part.start, part.end)));
        }
        let count = part.len();
        let row = row.clamp(1, count.max(1));
        let stretch = (STRETCH / row).max(1) * row;
        let io = |source| PretrainedError::Io { file: self.name.clone(), source };
        let start = self.data_start + (start + part.start * number.bytes) as u64;
        self.source.seek(SeekFrom::Start(start)).map_err(io)?;
        let mut bytes = vec![0; stretch.min(count) * number.bytes];
        let mut values = Vec::with_capacity(stretch.min(count));
        for first in (0..count).step_by(stretch) {
            let bytes = &mut bytes[..stretch.min(count - first) * number.bytes];
            self.source.read_exact(bytes).map_err(io)?;
            values.clear();
            values.extend(bytes.chunks_exact(number.bytes).map(number.widen));
            take(first, &values);
        }
        Ok(())
    }
}

/// How a number is stored.
struct Number {
    bytes: usize,
    widen: fn(&[u8]) -> f32,
}

/// The tensors of one or several files, as one collection.
///
/// ```
/// use std::io::Cursor;
/// use heddle_hybrid::pretrained::{TensorFile, TensorFiles};
///
/// let shard = |name: &str, tensor: &str, value: f32| {
///     let header = format!(r#"{{"{tensor}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#);
///     let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &value.to_le_bytes()].concat();
///     TensorFile::open(name, Cursor::new(bytes)).unwrap()
/// };
/// let mut files = TensorFiles::new(vec![shard("1.safetensors", "b", 2.5), shard("2.safetensors", "a", -1.0)]).unwrap();
/// assert_eq!((files.names().collect::<Vec<_>>(), files.shape("b").unwrap()), (vec!["a", "b"], &[1][..]));
/// files.read_part("b", 1, 0..1, |_, stretch| assert_eq!(stretch, [2.5])).unwrap();
///
/// let twice = vec![shard("1.safetensors", "a", 0.0), shard("2.safetensors", "a", 0.0)];
/// let text = TensorFiles::new(twice).unwrap_err().to_string();
/// assert!(text.starts_with("tensor `a`: it stands in both 1.safetensors and 2.safetensors; "));
/// ```
#[derive(Debug)]
pub struct TensorFiles<R> {
    files: Vec<TensorFile<R>>,
    /// The file of each tensor.
    places: BTreeMap<String, usize>,
}

impl<R: Read + Seek> TensorFiles<R> {
    /// The tensors of all `files`.
    ///
    /// # Errors
    /// If a tensor stands in two of them.
    pub fn new(files: Vec<TensorFile<R>>) -> Result<Self, PretrainedError> {
        let mut places = BTreeMap::new();
        for (index, file) in files.iter().enumerate() {
            for name in file.names() {
                if let Some(other) = places.insert(name.clone(), index) {
                    let other: &TensorFile<R> = &files[other];
                    let problem = format!("it stands in both {} and {}", other.name, file.name);
                    return Err(PretrainedError::tensor(&name, problem));
                }
            }
        }
        Ok(Self { files, places })
    }

    /// The tensors of the files that `index` lists.
    ///
    /// # Errors
    /// If a tensor stands in two files, or not in the one that the index names.
    pub fn indexed(index: &ShardIndex, files: Vec<TensorFile<R>>) -> Result<Self, PretrainedError> {
        let all = Self::new(files)?;
        for (tensor, file) in index.tensors() {
            if all.places.get(tensor).is_none_or(|&place| all.files[place].name != *file) {
                return Err(PretrainedError::tensor(tensor, format!("the index says {file}, which does not hold it")));
            }
        }
        Ok(all)
    }

    /// The names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    fn place(&self, name: &str) -> Result<usize, PretrainedError> {
        self.places.get(name).copied().ok_or_else(|| PretrainedError::tensor(name, "it is missing"))
    }

    /// The shape of a tensor that can be read.
    ///
    /// # Errors
    /// If it is missing, or its numbers are not floating-point numbers of 32 or 16 bits.
    pub fn shape(&self, name: &str) -> Result<&[usize], PretrainedError> {
        let file = &self.files[self.place(name)?];
        file.number(name)?;
        file.shape(name)
    }

    /// See [`TensorFile::read_part`].
    ///
    /// # Errors
    /// As there.
    pub fn read_part(
        &mut self,
        name: &str,
        row: usize,
        part: Range<usize>,
        take: impl FnMut(usize, &[f32]),
    ) -> Result<(), PretrainedError> {
        let place = self.place(name)?;
        self.files[place].read_part(name, row, part, take)
    }
}

//! The JSON of an infer request: its keys in any order, each read once, tensors straight into bytes.

use bytes::Bytes;
use jiter::{Jiter, JiterResult, Peek};

use crate::data::{self, Form};
use crate::datatype::Datatype;
use crate::fault::Fault;
use crate::json::{self, Rest};
use crate::proto::{Choice, Parameter, Parameters, RequestedOutput, Tensor};
use crate::shape;

/// Inputs, outputs asked for, and parameters of one place.
pub const MOST_ENTRIES: usize = 10_000;
/// Bytes of a name.
pub const LONGEST_NAME: usize = 2048;
/// Levels around what stands in a tensor: the request, its list, the tensor.
const AROUND_TENSOR: usize = 3;

/// What a request is made of, as it stands in JSON.
#[derive(Default)]
pub struct Parts {
    pub id: Option<String>,
    pub parameters: Option<Parameters>,
    pub inputs: Option<Vec<Input>>,
    pub outputs: Option<Vec<RequestedOutput>>,
}

pub struct Input {
    pub tensor: Tensor,
    pub datatype: Datatype,
    pub elements: usize,
    pub data: Data,
}

pub enum Data {
    Missing,
    Raw(Bytes),
    /// So many bytes of what follows the JSON.
    Behind(usize),
}

/// Reads the JSON of a request, whose tensors may have `max_bytes` together.
///
/// # Errors
/// 400 with a sentence for people, or 413.
pub fn read(text: &[u8], max_bytes: usize) -> Result<Parts, Fault> {
    let mut reader = Reader::new(text, max_bytes);
    let parts = reader.request()?;
    reader.finish()?;
    Ok(parts)
}

/// Whether BYTES are written as base64.
pub fn is_base64(parameters: &Parameters) -> bool {
    match parameters.get("content_type").and_then(|parameter| parameter.choice.as_ref()) {
        Some(Choice::String(kind)) => kind == "base64" || kind == "b64",
        _ => false,
    }
}

#[derive(Clone, Copy)]
enum Key {
    Id,
    Parameters,
    Inputs,
    Outputs,
    Name,
    Datatype,
    Shape,
    Data,
    Other,
}

impl Key {
    fn of_request(key: &str) -> Self {
        match key {
            "id" => Self::Id,
            "parameters" => Self::Parameters,
            "inputs" => Self::Inputs,
            "outputs" => Self::Outputs,
            _ => Self::Other,
        }
    }

    fn of_tensor(key: &str) -> Self {
        match key {
            "name" => Self::Name,
            "datatype" => Self::Datatype,
            "shape" => Self::Shape,
            "parameters" => Self::Parameters,
            "data" => Self::Data,
            _ => Self::Other,
        }
    }
}

pub struct Reader<'a> {
    json: Jiter<'a>,
    /// What `json` reads.
    rest: Rest<'a>,
    /// Bytes that further tensors may have.
    pub left: usize,
    pub max_bytes: usize,
}

impl<'a> Reader<'a> {
    /// Of a text whose tensors may have `max_bytes` together.
    pub fn new(text: &'a [u8], max_bytes: usize) -> Self {
        Self { json: Jiter::new(text).with_allow_inf_nan(), rest: Rest::of(text), left: max_bytes, max_bytes }
    }

    /// # Errors
    /// 400: something follows what was read.
    pub fn finish(&mut self) -> Result<(), Fault> {
        self.take(Jiter::finish)
    }

    fn take<T>(&mut self, next: impl FnOnce(&mut Jiter<'a>) -> JiterResult<T>) -> Result<T, Fault> {
        next(&mut self.json).map_err(|error| self.rest.fault(&error))
    }

    /// Reads the value of `data`.
    fn data(&mut self, form: Form<'_>) -> Result<Vec<u8>, Fault> {
        let rest = self.rest.after(self.json.current_index());
        let (raw, length) = data::read(rest, form)?;
        self.rest = rest.after(length);
        self.json = Jiter::new(self.rest.text()).with_allow_inf_nan();
        self.left -= raw.len();
        Ok(raw)
    }

    /// Reads an object: `name` tells keys apart, `each` reads the value of one.
    pub fn object<K>(
        &mut self,
        name: impl Fn(&str) -> K,
        mut each: impl FnMut(&mut Self, K) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut key = self.take(|json| json.next_object().map(|key| key.map(&name)))?;
        while let Some(known) = key {
            each(self, known)?;
            key = self.take(|json| json.next_key().map(|key| key.map(&name)))?;
        }
        Ok(())
    }

    /// Reads a list of `what`; null is an empty one.
    fn list<T>(&mut self, what: &str, each: impl Fn(&mut Self) -> Result<T, Fault>) -> Result<Vec<T>, Fault> {
        let mut list = Vec::new();
        if self.is_null()? {
            return Ok(list);
        }
        let mut next = self.take(Jiter::next_array)?;
        while next.is_some() {
            if list.len() == MOST_ENTRIES {
                return Err(Fault::bad(format!("the request has more than {MOST_ENTRIES} {what}")));
            }
            list.push(each(self)?);
            next = self.take(Jiter::array_step)?;
        }
        Ok(list)
    }

    /// Whether the next value is null, which is then read.
    pub fn is_null(&mut self) -> Result<bool, Fault> {
        let null = self.take(Jiter::peek)? == Peek::Null;
        if null {
            self.take(Jiter::known_null)?;
        }
        Ok(null)
    }

    pub fn string(&mut self) -> Result<String, Fault> {
        self.take(|json| json.next_str().map(str::to_owned))
    }

    fn name(&mut self) -> Result<String, Fault> {
        let name = self.string()?;
        if name.len() > LONGEST_NAME {
            return Err(Fault::bad(format!("a name has {} bytes, {LONGEST_NAME} are allowed", name.len())));
        }
        Ok(name)
    }

    /// Reads over a value, and returns its text.
    pub fn value(&mut self, levels_around: usize) -> Result<&'a [u8], Fault> {
        self.skip(levels_around).map(Rest::text)
    }

    /// Skips an unknown value.
    fn skip(&mut self, levels_around: usize) -> Result<Rest<'a>, Fault> {
        self.take(Jiter::peek)?;
        let begin = self.json.current_index();
        self.take(Jiter::next_skip)?;
        let value = self.rest.after(begin).first(self.json.current_index() - begin);
        json::check_depth(value.text(), levels_around)?;
        Ok(value)
    }

    fn request(&mut self) -> Result<Parts, Fault> {
        let mut parts = Parts::default();
        self.object(Key::of_request, |reader, key| match key {
            Key::Id => {
                let id = if reader.is_null()? { String::new() } else { reader.string()? };
                once(&mut parts.id, id, "id")
            }
            Key::Parameters => once(&mut parts.parameters, reader.parameters()?, "parameters"),
            Key::Inputs => once(&mut parts.inputs, reader.list("inputs", Self::input)?, "inputs"),
            Key::Outputs => once(&mut parts.outputs, reader.list("outputs", Self::output)?, "outputs"),
            _ => reader.skip(1).map(|_| ()),
        })?;
        Ok(parts)
    }

    fn parameters(&mut self) -> Result<Parameters, Fault> {
        let mut parameters = Parameters::new();
        if self.is_null()? {
            return Ok(parameters);
        }
        self.object(str::to_owned, |reader, key| {
            if key.len() > LONGEST_NAME || parameters.len() == MOST_ENTRIES {
                return Err(Fault::bad("there are too many parameters, or one has too long a name"));
            }
            let Some(choice) = reader.parameter(&key)? else { return Ok(()) };
            match parameters.insert(key, Parameter { choice: Some(choice) }) {
                None => Ok(()),
                Some(_) => Err(Fault::bad("a parameter is there twice")),
            }
        })?;
        Ok(parameters)
    }

    /// None: null, which is as if it was not there.
    pub fn parameter(&mut self, key: &str) -> Result<Option<Choice>, Fault> {
        let peek = self.take(Jiter::peek)?;
        Ok(match peek {
            Peek::Null => {
                self.take(Jiter::known_null)?;
                None
            }
            Peek::True | Peek::False => Some(Choice::Bool(self.take(|json| json.known_bool(peek))?)),
            Peek::String => Some(Choice::String(self.string()?)),
            Peek::Array | Peek::Object => {
                return Err(Fault::bad(format!("the parameter {key:?} must be a number, a string, true or false")));
            }
            _ => {
                let begin = self.json.current_index();
                self.take(|json| json.known_number_bytes(peek).map(|_| ()))?;
                let number = std::str::from_utf8(self.json.slice_to_current(begin)).unwrap_or_default();
                Some(number_parameter(number).ok_or_else(|| {
                    Fault::bad(format!("the parameter {key:?} is beyond every number a call can carry"))
                })?)
            }
        })
    }

    fn output(&mut self) -> Result<RequestedOutput, Fault> {
        let (mut name, mut parameters) = (None, None);
        self.object(Key::of_tensor, |reader, key| match key {
            Key::Name => once(&mut name, reader.name()?, "name"),
            Key::Parameters => once(&mut parameters, reader.parameters()?, "parameters"),
            _ => reader.skip(AROUND_TENSOR).map(|_| ()),
        })?;
        let name = name.filter(|name| !name.is_empty()).ok_or_else(|| Fault::bad("an output has no name"))?;
        Ok(RequestedOutput { name, parameters: parameters.unwrap_or_default() })
    }

    fn input(&mut self) -> Result<Input, Fault> {
        let mut parts = InputParts::default();
        self.object(Key::of_tensor, |reader, key| match key {
            Key::Name => once(&mut parts.name, reader.name()?, "name"),
            Key::Datatype => once(&mut parts.datatype, reader.string()?, "datatype"),
            Key::Shape => once(&mut parts.shape, reader.shape()?, "shape"),
            Key::Parameters => once(&mut parts.parameters, reader.parameters()?, "parameters"),
            Key::Data if parts.says_how_to_read() => {
                let form = parts.form(reader)?;
                let raw = reader.data(form)?;
                once(&mut parts.raw, raw, "data")
            }
            Key::Data if parts.raw.is_some() => Err(twice("data")),
            Key::Data => {
                // What says how to read it comes after it.
                let value = reader.skip(AROUND_TENSOR)?;
                once(&mut parts.later, value, "data")
            }
            _ => reader.skip(AROUND_TENSOR).map(|_| ()),
        })?;
        if let Some(value) = parts.later {
            if parts.raw.is_some() {
                return Err(twice("data"));
            }
            let (raw, _) = data::read(value, parts.form(self)?)?;
            self.left -= raw.len();
            parts.raw = Some(raw);
        }
        parts.whole(self)
    }

    fn shape(&mut self) -> Result<Vec<i64>, Fault> {
        let mut shape = Vec::new();
        let mut next = self.take(Jiter::next_array)?;
        while let Some(peek) = next {
            if shape.len() == shape::MOST_DIMENSIONS {
                return Err(Fault::bad(format!("a shape has more than {} dimensions", shape::MOST_DIMENSIONS)));
            }
            let begin = self.json.current_index();
            self.take(|json| json.known_number_bytes(peek).map(|_| ()))?;
            let number = std::str::from_utf8(self.json.slice_to_current(begin)).unwrap_or_default();
            match number.parse() {
                Ok(dimension) if dimension >= 0 => shape.push(dimension),
                _ => return Err(Fault::bad("the dimensions of a shape must be whole numbers, zero or more")),
            }
            next = self.take(Jiter::array_step)?;
        }
        Ok(shape)
    }
}

/// Notes what may be said once.
fn once<T>(place: &mut Option<T>, value: T, key: &str) -> Result<(), Fault> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(twice(key)),
    }
}

fn twice(key: &str) -> Fault {
    Fault::bad(format!("the key {key:?} is there twice in one object"))
}

/// Whole numbers stay whole.
fn number_parameter(number: &str) -> Option<Choice> {
    if let Ok(number) = number.parse() {
        return Some(Choice::Int64(number));
    }
    if let Ok(number) = number.parse() {
        return Some(Choice::Uint64(number));
    }
    let fraction = number.contains(['.', 'e', 'E']);
    let number: f64 = number.parse().ok()?;
    (fraction && number.is_finite()).then_some(Choice::Double(number))
}

/// What was read of an input so far.
#[derive(Default)]
struct InputParts<'a> {
    name: Option<String>,
    datatype: Option<String>,
    shape: Option<Vec<i64>>,
    parameters: Option<Parameters>,
    raw: Option<Vec<u8>>,
    later: Option<Rest<'a>>,
}

impl InputParts<'_> {
    /// BYTES may be base64, which the parameters say.
    fn says_how_to_read(&self) -> bool {
        let is_bytes = self.datatype.as_deref() == Some(Datatype::Bytes.name());
        self.later.is_none()
            && self.datatype.is_some()
            && self.shape.is_some()
            && (self.parameters.is_some() || !is_bytes)
    }

    fn is_base64(&self) -> bool {
        self.parameters.as_ref().is_some_and(is_base64)
    }

    fn label(&self) -> &str {
        self.name.as_deref().unwrap_or("?")
    }

    fn datatype(&self) -> Result<Datatype, Fault> {
        let name = self.datatype.as_deref().ok_or_else(|| self.lacks("datatype"))?;
        Datatype::named(name).ok_or_else(|| {
            let known: Vec<_> = Datatype::ALL.map(Datatype::name).into();
            let shown: String = name.chars().take(40).collect();
            Fault::bad(format!("input {:?}: {shown:?} is no datatype; there are {}", self.label(), known.join(", ")))
        })
    }

    fn lacks(&self, what: &str) -> Fault {
        Fault::bad(format!("input {:?} has no {what}", self.label()))
    }

    fn elements(&self) -> Result<usize, Fault> {
        let shape = self.shape.as_deref().ok_or_else(|| self.lacks("shape"))?;
        shape::elements(shape)
            .ok_or_else(|| Fault::bad(format!("input {:?}: no memory holds the shape {shape:?}", self.label())))
    }

    fn form(&self, reader: &Reader<'_>) -> Result<Form<'_>, Fault> {
        Ok(Form {
            input: self.label(),
            datatype: self.datatype()?,
            shape: self.shape.as_deref().unwrap_or_default(),
            elements: self.elements()?,
            base64: self.is_base64(),
            left: reader.left,
            max_bytes: reader.max_bytes,
        })
    }

    fn whole(mut self, reader: &mut Reader<'_>) -> Result<Input, Fault> {
        if self.name.as_ref().is_none_or(String::is_empty) {
            return Err(Fault::bad("an input has no name"));
        }
        let (datatype, elements, is_base64) = (self.datatype()?, self.elements()?, self.is_base64());
        let label = self.label().to_owned();
        let mut parameters = self.parameters.take().unwrap_or_default();
        if parameters.contains_key("shared_memory_region") {
            return Err(Fault::bad(format!("input {label:?}: there is no shared memory between a client and a mesh")));
        }
        let behind = match parameters.remove("binary_data_size").map(|parameter| parameter.choice) {
            None => None,
            Some(Some(Choice::Int64(size))) if size >= 0 => usize::try_from(size).ok(),
            Some(_) => return Err(Fault::bad(format!("input {label:?}: binary_data_size must be a number of bytes"))),
        };
        let data = match (self.raw.take(), behind) {
            (Some(_), Some(_)) => {
                return Err(Fault::bad(format!("input {label:?} has both data and binary_data_size")));
            }
            (Some(raw), None) => {
                // They are bytes now and must not be decoded again.
                if is_base64 && datatype == Datatype::Bytes {
                    parameters.remove("content_type");
                }
                Data::Raw(raw.into())
            }
            (None, Some(size)) => {
                reader.left = reader.left.checked_sub(size).ok_or_else(|| json::too_large(reader.max_bytes))?;
                Data::Behind(size)
            }
            (None, None) => Data::Missing,
        };
        let tensor = Tensor {
            name: label,
            datatype: datatype.name().to_owned(),
            shape: self.shape.take().unwrap_or_default(),
            parameters,
            contents: None,
        };
        Ok(Input { tensor, datatype, elements, data })
    }
}

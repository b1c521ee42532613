//! SVG elements, escaped, and text cut to the room that it has.

use std::fmt::Write;

use crate::palette::{PATTERNS, Style};

use super::layout::Rect;

pub(super) struct Svg(String);

/// How a text looks, and the width of its average letter in parts of its size.
#[derive(Clone, Copy)]
pub(super) struct Font {
    pub class: &'static str,
    pub size: f64,
    pub letter: f64,
}

pub(super) const TITLE: Font = Font { class: "t", size: 20.0, letter: 0.66 };
pub(super) const NAME: Font = Font { class: "n", size: 11.5, letter: 0.67 };
pub(super) const PLAIN: Font = Font { class: "p", size: 10.5, letter: 0.6 };
pub(super) const SMALL: Font = Font { class: "s", size: 10.5, letter: 0.6 };

const STYLE: &str = "text{font-family:Inter,'Segoe UI',Roboto,'Helvetica Neue',Arial,'DejaVu Sans',sans-serif;\
fill:#1F2933;pointer-events:none}.t{font-size:20px;font-weight:600}.n{font-size:11.5px;font-weight:600}\
.p{font-size:10.5px}.s{font-size:10.5px;fill:#616E7C}.e{text-anchor:end}";

/// One hatching per class of nodes beyond the colours: none, diagonal, dots, the other diagonal.
const HATCHINGS: [&str; PATTERNS] = [
    "",
    "<path d=\"M-2,2 l4,-4 M0,8 l8,-8 M6,10 l4,-4\" stroke=\"#000\" stroke-opacity=\".28\" stroke-width=\"1.4\"/>",
    "<circle cx=\"2\" cy=\"2\" r=\"1.2\" fill-opacity=\".32\"/><circle cx=\"6\" cy=\"6\" r=\"1.2\" fill-opacity=\".32\"/>",
    "<path d=\"M-2,6 l4,4 M0,0 l8,8 M6,-2 l4,4\" stroke=\"#000\" stroke-opacity=\".28\" stroke-width=\"1.4\"/>",
];

impl Svg {
    pub(super) fn new(width: f64, height: f64, label: &str) -> Self {
        let label = escape(label);
        Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {w} {h}\" width=\"{w}\" height=\"{h}\" role=\"img\" \
             aria-label=\"{label}\">\n<title>{label}</title>\n<style>{STYLE}</style>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
            w = Number(width),
            h = Number(height),
        ))
    }

    /// The hatchings that these styles need.
    pub(super) fn patterns<'s>(&mut self, styles: impl Iterator<Item = &'s Style>) {
        let hatched: Vec<_> = styles.filter(|style| style.pattern > 0).collect();
        if hatched.is_empty() {
            return;
        }
        self.raw("<defs>");
        for style in hatched {
            let (id, colour, lines) = (pattern(style), style.colour, HATCHINGS[style.pattern % PATTERNS]);
            self.raw(&format!(
                "<pattern id=\"{id}\" width=\"8\" height=\"8\" patternUnits=\"userSpaceOnUse\">\
                 <rect width=\"8\" height=\"8\" fill=\"{colour}\"/>{lines}</pattern>"
            ));
        }
        self.raw("</defs>\n");
    }

    /// What `draw` draws, moved.
    pub(super) fn group(&mut self, x: f64, y: f64, draw: impl FnOnce(&mut Self)) {
        self.raw(&format!("<g transform=\"translate({},{})\">\n", Number(x), Number(y)));
        draw(self);
        self.raw("</g>\n");
    }

    /// A rectangle, with what is shown when one points at it.
    pub(super) fn rect(&mut self, rect: Rect, fill: &str, more: &str, tooltip: Option<&str>) {
        let Rect { x, y, w, h } = rect;
        let (x, y, w, h) = (Number(x), Number(y), Number(w.max(0.2)), Number(h.max(0.2)));
        let open = format!("<rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" fill=\"{fill}\"{more}");
        match tooltip {
            Some(text) => self.raw(&format!("{open}><title>{}</title></rect>\n", escape(text))),
            None => self.raw(&format!("{open}/>\n")),
        }
    }

    pub(super) fn text(&mut self, x: f64, baseline: f64, font: Font, text: &str) {
        self.anchored(x, baseline, font.class, text);
    }

    /// Ends at `x` instead of beginning there.
    pub(super) fn text_before(&mut self, x: f64, baseline: f64, font: Font, text: &str) {
        self.anchored(x, baseline, &format!("{} e", font.class), text);
    }

    fn anchored(&mut self, x: f64, baseline: f64, class: &str, text: &str) {
        if !text.is_empty() {
            let (x, y) = (Number(x), Number(baseline));
            self.raw(&format!("<text x=\"{x}\" y=\"{y}\" class=\"{class}\">{}</text>\n", escape(text)));
        }
    }

    pub(super) fn finish(mut self) -> String {
        self.raw("</svg>\n");
        self.0
    }

    fn raw(&mut self, text: &str) {
        self.0.push_str(text);
    }
}

/// What fills an area of this style.
pub(super) fn fill(style: &Style) -> String {
    match style.pattern {
        0 => style.colour.to_owned(),
        _ => format!("url(#{})", pattern(style)),
    }
}

/// Pictures may share a page, so ids have a prefix.
fn pattern(style: &Style) -> String {
    format!("shardkeeper-{}-{}", style.pattern, style.colour.trim_start_matches('#'))
}

impl Font {
    pub(super) fn width(&self, text: &str) -> f64 {
        // Of the widest font in the list, so that text fits in whichever a viewer has.
        let letters = text.chars().map(|c| match c {
            'i' | 'j' | 'l' | 'I' | '.' | ',' | ':' | '\'' | '|' | ' ' => 0.55,
            't' | 'f' | 'r' | '-' | '(' | ')' => 0.68,
            '_' => 0.85,
            'm' | 'w' | 'M' | 'W' | '→' | '…' | '%' | '+' | '<' | '>' | '&' => 1.65,
            c if c.is_ascii_uppercase() => 1.18,
            c if c.is_ascii() => 1.06,
            // Scripts without half-width letters.
            c if u32::from(c) >= 0x1100 => 1.9,
            _ => 1.1,
        });
        letters.sum::<f64>() * self.letter * self.size
    }

    /// `text` if there is room for it.
    pub(super) fn whole(&self, text: &str, room: f64) -> Option<String> {
        (!text.is_empty() && self.width(text) <= room).then(|| text.to_owned())
    }

    /// As much of its beginning as fits; `None` if that says nothing.
    pub(super) fn beginning(&self, text: &str, room: f64) -> Option<String> {
        self.whole(text, room).or_else(|| {
            let cuts = text.char_indices().rev().map(|(at, _)| &text[..at]);
            self.cut(cuts, |cut| format!("{}…", cut.trim_end()), room)
        })
    }

    /// As much of its end as fits, for texts that differ there.
    pub(super) fn end(&self, text: &str, room: f64) -> Option<String> {
        self.whole(text, room).or_else(|| {
            let cuts = text.char_indices().skip(1).map(|(at, _)| &text[at..]);
            self.cut(cuts, |cut| format!("…{cut}"), room)
        })
    }

    fn cut<'a>(
        &self,
        mut cuts: impl Iterator<Item = &'a str>,
        shown: impl Fn(&str) -> String,
        room: f64,
    ) -> Option<String> {
        let cut = cuts.find(|cut| self.width(&shown(cut)) <= room)?;
        (cut.chars().count() >= 4).then(|| shown(cut))
    }
}

/// Two decimals at most, and none that are not needed.
struct Number(f64);

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = format!("{:.2}", if self.0.is_finite() { self.0 } else { 0.0 });
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// Text as XML; what XML cannot hold is replaced.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => {
                // Writing to a string does not fail.
                let _ = escaped.write_char(c);
            }
        }
    }
    escaped
}

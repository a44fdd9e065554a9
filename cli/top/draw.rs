//! The screen of `top`, drawn: a headline, three tables and a line of keys, in whatever room there is.

use super::facts::{Pane, Row as FactRow};
use super::screen::Screen;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Row, Table};

/// Lines of a pane beside its rows: the border, the title and the columns.
const FRAME_LINES: u16 = 3;
const KEYS: &str = " q quit  ? help  / filter  Tab pane  < > column  r reverse  Space now";
const HELP: &str = "\
 Tab, Shift-Tab   the next pane, the one before
 < >, arrows      sort by the column beside
 r                the other way round
 j k, arrows      scroll
 /                show rows with a text; Esc shows all
 Space            ask at once
 ?                this help
 q, Ctrl-C        leave

 Any key closes this.";

/// Draws it. Without `colour` a row in trouble is underlined, and nothing is coloured.
pub fn draw(frame: &mut Frame<'_>, screen: &Screen, colour: bool) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(2), Constraint::Min(0), Constraint::Length(1)])
            .areas(frame.area());
    draw_head(frame, head, screen, colour);
    let areas = Layout::vertical(heights(screen, body.height)).split(body);
    for (pane, area) in Pane::ALL.into_iter().zip(areas.iter()) {
        draw_pane(frame, *area, screen, pane, colour);
    }
    let foot_text = match screen.typing {
        true => format!(" /{}_", screen.filter),
        false if screen.filter.is_empty() => KEYS.to_owned(),
        false => format!(" /{}  (Esc: all){KEYS}", screen.filter),
    };
    frame.render_widget(Paragraph::new(foot_text), foot);
    if screen.help {
        draw_help(frame, colour);
    }
}

/// As many lines as each pane needs; what is too little is shared, and the pane that keys mean gets the rest.
fn heights(screen: &Screen, room: u16) -> [Constraint; 3] {
    let needs = Pane::ALL.map(|pane| {
        let rows = u16::try_from(screen.rows(pane).len()).unwrap_or(u16::MAX);
        rows.saturating_add(FRAME_LINES)
    });
    let all: u16 = needs.iter().fold(0, |sum, need| sum.saturating_add(*need));
    let least = (FRAME_LINES + 1).min(room / 3);
    Pane::ALL.map(|pane| {
        let need = needs[pane as usize];
        match (all <= room, pane == screen.pane) {
            (true, _) => Constraint::Length(need),
            (false, true) => Constraint::Fill(1),
            (false, false) => Constraint::Length(need.min(least.max(room / 4))),
        }
    })
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, screen: &Screen, colour: bool) {
    let style = match (colour, screen.facts.healthy) {
        (false, _) => Style::new(),
        (true, true) => Style::new().fg(Color::Green),
        (true, false) => Style::new().fg(Color::Yellow),
    };
    let headline = Line::from(vec![
        Span::styled(screen.facts.headline.clone(), style.add_modifier(Modifier::BOLD)),
        Span::raw("  "),
        Span::raw(screen.source.clone()),
    ]);
    let lines = vec![headline, Line::from(screen.facts.load.clone())];
    frame.render_widget(Paragraph::new(lines), area);
}

fn draw_pane(frame: &mut Frame<'_>, area: Rect, screen: &Screen, pane: Pane, colour: bool) {
    let rows = screen.rows(pane);
    let is_chosen = pane == screen.pane;
    let order = screen.order[pane as usize];
    let header = pane.columns().iter().enumerate().map(|(index, name)| {
        let mark = match (index == order.column, order.down) {
            (false, _) => "",
            (true, false) => "▲",
            (true, true) => "▼",
        };
        format!("{name}{mark}")
    });
    let header: Vec<String> = header.collect();
    let widths = widths(&header, &rows, area.width.saturating_sub(2));
    let skip = if is_chosen { screen.scroll } else { 0 };
    let shown = rows.iter().skip(skip).map(|row| {
        let style = match (row.bad, colour) {
            (false, _) => Style::new(),
            (true, true) => Style::new().fg(Color::Red),
            (true, false) => Style::new().add_modifier(Modifier::UNDERLINED),
        };
        Row::new(row.cells.iter().map(|cell| printable(cell))).style(style)
    });
    let total = screen.facts.tables[pane as usize].len();
    let count =
        if rows.len() == total { format!("{total}") } else { format!("{} of {total}", rows.len()) };
    let title = format!(" {} {count} ", pane.title());
    let border = if is_chosen { Modifier::BOLD } else { Modifier::DIM };
    let block = Block::bordered().title(title).border_style(Style::new().add_modifier(border));
    let header = Row::new(header).style(Style::new().add_modifier(Modifier::BOLD));
    let table = Table::new(shown, widths).header(header).column_spacing(2).block(block);
    frame.render_widget(table, area);
}

/// What each column needs; where that is too much, the widest gives.
fn widths(header: &[String], rows: &[&FactRow], room: u16) -> Vec<Constraint> {
    let width = |text: &str| u16::try_from(text.chars().count()).unwrap_or(u16::MAX);
    let mut widths: Vec<u16> = header.iter().map(|cell| width(cell)).collect();
    for row in rows {
        for (column, cell) in widths.iter_mut().zip(&row.cells) {
            *column = (*column).max(width(cell));
        }
    }
    let spaces = 2 * u16::try_from(widths.len().saturating_sub(1)).unwrap_or(0);
    let room = room.saturating_sub(spaces);
    while widths.iter().map(|width| u32::from(*width)).sum::<u32>() > u32::from(room) {
        match widths.iter_mut().max() {
            Some(widest) if *widest > 1 => *widest -= 1,
            _ => break,
        }
    }
    widths.into_iter().map(Constraint::Length).collect()
}

/// A name of somebody must not move the cursor.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn draw_help(frame: &mut Frame<'_>, colour: bool) {
    let lines = u16::try_from(HELP.lines().count()).unwrap_or(12) + 2;
    let area = frame.area();
    let (width, height) = (area.width.min(60), area.height.min(lines));
    let at = Rect::new((area.width - width) / 2, (area.height - height) / 2, width, height);
    let style = if colour { Style::new().fg(Color::Cyan) } else { Style::new() };
    let block = Block::bordered().title(" keys ").border_style(style);
    frame.render_widget(Clear, at);
    frame.render_widget(Paragraph::new(HELP).block(block), at);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::facts::Facts;
    use crate::top::facts::tests::{answers, now};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn shown(screen: &Screen, (columns, rows): (u16, u16)) -> String {
        let mut terminal = Terminal::new(TestBackend::new(columns, rows)).expect("a terminal");
        terminal.draw(|frame| draw(frame, screen, true)).expect("drawn");
        terminal.backend().to_string()
    }

    fn screen() -> Screen {
        Screen {
            facts: Facts::of(&answers(), now()),
            source: "from h:2".to_owned(),
            ..Screen::default()
        }
    }

    #[test]
    fn everything_is_seen_in_eighty_columns_and_twenty_four_lines() {
        let text = shown(&screen(), (80, 24));
        for part in [
            "lab: 2 of 3 nodes, leader 2, 0 more may fail  from h:2",
            "3 streams  1.5 requests/s  40.0 tokens/s",
            "nodes 3",
            "workers 2",
            "models 1",
            "unreachable",
            "WORKER▲",
            "20 GB of 24 GB",
            "draining",
            "9077fe9d2ae1",
            "q quit",
        ] {
            assert!(text.contains(part), "`{part}` is missing in\n{text}");
        }
    }

    #[test]
    fn a_filter_and_the_help_are_seen() {
        let mut screen = screen();
        screen.filter = "gpu-b".to_owned();
        screen.typing = true;
        let text = shown(&screen, (80, 24));
        assert!(text.contains("/gpu-b_") && text.contains("workers 1 of 2"), "{text}");
        assert!(!text.contains("cuda:0"), "{text}");
        screen.help = true;
        assert!(shown(&screen, (80, 24)).contains("Any key closes this."));
    }

    #[test]
    fn any_room_is_enough() {
        let mut screen = screen();
        let worker = screen.facts.tables[1][0].clone();
        screen.facts.tables[1] = vec![worker; 500];
        screen.help = true;
        for size in [(1, 1), (3, 2), (20, 5), (40, 12), (80, 24), (200, 60)] {
            shown(&screen, size);
        }
        screen.help = false;
        screen.scroll = 490;
        let text = shown(&screen, (80, 24));
        assert!(text.contains("models 1") && text.contains("nodes 3"), "{text}");
    }
}

//! What the benches share: medians, figures, a bare client and a bare journal, and text that looks like what teams write.

use std::process::ExitCode;
use std::time::Duration;

pub mod bare;
pub mod journal;
mod row;

pub use row::Row;

/// The middle, and the 99th of a hundred.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    /// The median.
    pub median: Duration,
    /// The 99th percentile; the maximum of fewer than a hundred.
    pub p99: Duration,
}

/// Of at least one measurement.
#[must_use]
pub fn spread(mut times: Vec<Duration>) -> Spread {
    times.sort_unstable();
    let at = |percent: usize| times.get((times.len() * percent / 100).min(times.len().saturating_sub(1)));
    Spread { median: at(50).copied().unwrap_or_default(), p99: at(99).copied().unwrap_or_default() }
}

/// Milliseconds with three digits.
#[must_use]
pub fn ms(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64() * 1e3)
}

/// What was found to be over its limit.
pub struct Judge {
    slack: f64,
    over: Vec<String>,
}

impl Judge {
    /// One that fails only beyond so many times what must hold.
    #[must_use]
    pub fn new(slack: f64) -> Self {
        Self { slack, over: Vec::new() }
    }

    /// Whether it holds, in a word.
    pub fn verdict(&mut self, what: &str, found: Duration, limit: Duration) -> &'static str {
        let holds = found <= limit;
        if found > limit.mul_f64(self.slack) {
            self.over.push(format!("{what}: {} ms, must be at most {} ms", ms(found), ms(limit)));
        }
        if holds { "holds" } else { "OVER" }
    }

    /// Says what is over, and fails then.
    #[must_use]
    #[allow(clippy::print_stderr)] // A bench talks.
    pub fn conclude(&self) -> ExitCode {
        for over in &self.over {
            eprintln!("must hold, and does not (slack {}): {over}", self.slack);
        }
        if self.over.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

const ENGLISH: [&str; 64] = [
    "the",
    "to",
    "is",
    "of",
    "and",
    "a",
    "in",
    "for",
    "on",
    "that",
    "it",
    "with",
    "build",
    "please",
    "this",
    "not",
    "we",
    "are",
    "was",
    "green",
    "you",
    "can",
    "test",
    "from",
    "branch",
    "deploy",
    "main",
    "failed",
    "has",
    "be",
    "after",
    "before",
    "error",
    "when",
    "log",
    "server",
    "release",
    "check",
    "version",
    "merge",
    "review",
    "pull",
    "request",
    "ticket",
    "customer",
    "report",
    "database",
    "latency",
    "staging",
    "production",
    "rollback",
    "pipeline",
    "token",
    "config",
    "queue",
    "timeout",
    "memory",
    "schema",
    "migration",
    "backup",
    "certificate",
    "incident",
    "dashboard",
    "deployment",
];

const CHINESE: [&str; 40] = [
    "的", "了", "在", "请看", "我们", "可以", "构建", "测试", "已经", "完成", "问题", "需要", "部署", "结果",
    "失败", "日志", "服务", "版本", "合并", "分支", "代码", "检查", "数据", "客户", "报告", "会议", "明天",
    "今天", "谢谢", "上线", "回滚", "配置", "证书", "超时", "内存", "队列", "迁移", "备份", "告警", "审核",
];

/// How many different English words there are, and Chinese ones.
const WORDS: [u64; 2] = [30_000, 8_000];

/// Text by the same rule as natural text: few words are everywhere, most are rare. The same seed gives the same text.
#[derive(Debug)]
pub struct Writer(u64);

impl Writer {
    /// From this seed on.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `below` (splitmix64).
    pub fn number(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    /// So many words, half of the time English, a third Chinese, else mixed.
    pub fn text(&mut self, least: u64, most: u64) -> String {
        let language = self.number(6);
        let mut text = String::new();
        for _ in 0..least + self.number(most - least) {
            let english = language < 3 || (language == 5 && self.number(2) == 0);
            let rank = self.rank(WORDS[usize::from(!english)]);
            if english {
                text.push_str(&english_word(rank));
                text.push(' ');
            } else {
                text.push_str(&chinese_word(rank));
                if self.number(8) == 0 {
                    text.push('，');
                }
            }
        }
        text
    }

    /// Small ranks are common: the third power of an even spread.
    fn rank(&mut self, of: u64) -> u64 {
        let x = self.number(1 << 20);
        let cubed = u128::from(x).pow(3) * u128::from(of);
        u64::try_from(cubed >> 60).unwrap_or_default()
    }
}

fn english_word(rank: u64) -> String {
    if let Some(word) = usize::try_from(rank).ok().and_then(|rank| ENGLISH.get(rank)) {
        return (*word).to_owned();
    }
    const SYLLABLES: [&str; 20] = [
        "ba", "con", "der", "est", "fi", "gor", "hal", "ing", "jo", "ker", "lum", "men", "nor", "ov", "per",
        "qui", "ras", "sol", "tan", "vex",
    ];
    let mut word = String::new();
    let mut left = rank;
    while left > 0 {
        word.push_str(SYLLABLES[usize::try_from(left % 20).unwrap_or_default()]);
        left /= 20;
    }
    word
}

/// Real words first, then pairs from 2,000 characters.
fn chinese_word(rank: u64) -> String {
    if let Some(word) = usize::try_from(rank).ok().and_then(|rank| CHINESE.get(rank)) {
        return (*word).to_owned();
    }
    let character = |n: u64| u32::try_from(0x4e00 + n % 2_000).ok().and_then(char::from_u32).unwrap_or('一');
    [character(rank * 7), character(rank * 31 + 5)].iter().collect()
}

// Owns how a report and a quality look on a terminal.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "verify/choices.h"
#include "verify/report.h"

namespace llmc {

std::string format_products(const ProductSpeeds& products);
std::string format_quality(const Quality& quality, const std::optional<OracleAgreement>& oracle);
/// A row for each model and each comparison, and their hidden states where they were measured. `models` and `references` are names.
std::string format_judgements(const std::vector<std::string>& models, const std::vector<std::string>& references, const std::vector<Judgement>& judgements);
/// Questions answered right by each model, and beside each reference.
std::string format_choices(const std::vector<std::string>& models, const std::vector<std::string>& references, const std::vector<ChoiceQuality>& choices);
/// Sizes by role, totals, quality, time and memory, gates.
std::string format_report(const Report& report, bool colour);

}  // namespace llmc

RESULTS=None
from real_data import ROOT
RESULTS = ROOT / "benchmarks" / "results" / "training_results.json"
def write_report(): ...

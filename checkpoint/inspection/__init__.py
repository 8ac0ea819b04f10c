"""What is looked at before anything is touched: a workload, its files, the machine."""

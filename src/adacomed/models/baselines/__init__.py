"""What AdaCoMed is compared with."""

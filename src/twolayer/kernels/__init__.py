"""Who computes a pass: plain operators, operators on chunks, programs for one kind of processor; and who decides."""
